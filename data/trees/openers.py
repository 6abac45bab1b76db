"""Openers, closers, stop tokens of a conversation, derived from any chat template."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.template import render_messages, take_apart
from data.trees.plan import Role

_MARK = "\ue002"  # private use: in no template
_PROBES = ("A", "b", "7", "Wh")


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What ends a turn.

    Attributes:
        ids: Tokens, any of which ends it.
        texts: Strings that end it, for templates whose marks are ordinary text (Llama-2's " [/INST]").
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Openers:
    """How one chat template opens and ends turns.

    Attributes:
        root: All before the first user text: what the model continues as the user. Holds the system prompt.
        after: What stands between a turn and the next, by the role of the turn before: its closer, then the other role's opener.
        stops: What ends a turn, by its role.
        markers: Strings that no turn's text may hold; one that does has spoken for the other side.
        template_hash: sha256 of the template's text.
    """

    root: str
    after: Mapping[Role, str]
    stops: Mapping[Role, Stop]
    markers: tuple[str, ...]
    template_hash: str

    def child_prompt(self, prompt: str, text: str, role: Role) -> str:
        """The prompt of a node's children: its own prompt, its text, then the opener of the other role."""
        return prompt + text + self.after[role]


def derive(tokenizer: Any, *, system: str | None = None, end_ids: Iterable[int] = ()) -> Openers:
    """Takes a tokenizer's chat template apart.

    Args:
        tokenizer: Any tokenizer with a chat template.
        system: System prompt of every dialogue; what the template writes by itself when None.
        end_ids: Further tokens that end a turn, e.g. those of the model's generation config.

    Raises:
        ValueError: There is no template, or it refuses the roles system (when given), user, assistant, user, assistant.
    """
    head = ("system",) if system is not None else ()
    skeleton = take_apart((*head, "user", "assistant", "user", "assistant"), tokenizer)
    offset = len(head)
    root = skeleton.pieces[0] if system is None else skeleton.pieces[0] + skeleton.texts([system, "", "", "", ""])[0] + skeleton.pieces[1]
    pieces, closers = skeleton.pieces[offset:], skeleton.closers[offset:]
    after: dict[Role, str] = {"user": _answer_opener(tokenizer, pieces[1]), "assistant": pieces[2]}
    specials = _special_strings(tokenizer)
    ends = {*end_ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    stops: dict[Role, Stop] = {
        "user": _stop(closers[0] or after["user"], tokenizer, specials, ends),
        "assistant": _stop(closers[1] or after["assistant"], tokenizer, specials, ends),
    }
    markers = {*specials, *(text for piece in after.values() for text in _plain_markers(piece, specials))}
    return Openers(
        root=root,
        after=after,
        stops=stops,
        markers=tuple(sorted(markers)),
        template_hash=hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
    )


def prompt_ids(prompt: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt that the model continues.

    The whole prompt is tokenised at once, as training does. A blank at its end is left to the model where the tokenizer would
    join it with the next word (Llama-2's "[INST] "): a lone blank there is something no model was trained on.
    """
    trimmed = prompt.rstrip(" ")
    if trimmed != prompt and not _is_boundary(prompt, tokenizer):
        prompt = trimmed
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _is_boundary(prompt: str, tokenizer: Any) -> bool:
    """Whether the tokens of the prompt's last line stay the same whatever word follows."""
    tail = prompt[-32:]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return all(tokenizer(tail + probe, add_special_tokens=False)["input_ids"][: len(ids)] == ids for probe in _PROBES)


def _answer_opener(tokenizer: Any, piece: str) -> str:
    """What stands between a question and its answer: the template's generation prompt, where that says more than a written turn.

    The two differ in templates with a thinking mode, whose generation prompt holds an empty thought that past turns lack.
    """
    generation = render_messages(["user"], [_MARK], tokenizer, add_generation_prompt=True).partition(_MARK)[2]
    return piece if piece.startswith(generation.rstrip()) else generation


def _special_strings(tokenizer: Any) -> tuple[str, ...]:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys([*added, *tokenizer.all_special_tokens]))


def _stop(closer: str, tokenizer: Any, specials: tuple[str, ...], ends: set[int]) -> Stop:
    """A closer that begins with a special token ends a turn by that token, any other one by its text."""
    closer = closer.strip()
    first = max((text for text in specials if closer.startswith(text)), key=len, default=None)
    if first is not None:
        return Stop(ids=tuple(sorted({*ends, tokenizer.convert_tokens_to_ids(first)})), texts=())
    texts = tuple(part for part in [_split(closer, specials)[0].strip()] if part) if closer else ()
    return Stop(ids=tuple(sorted(ends)), texts=texts)


def _plain_markers(piece: str, specials: tuple[str, ...]) -> list[str]:
    """Parts of an opener outside its special tokens; bare words ("assistant") are left out, since texts may hold them."""
    parts = [part.strip() for part in _split(piece, specials)]
    return [part for part in parts if part and not re.fullmatch(r"[\w\s]+", part)]


def _split(text: str, specials: tuple[str, ...]) -> list[str]:
    return re.split("|".join(map(re.escape, sorted(specials, key=len, reverse=True))), text) if specials else [text]
