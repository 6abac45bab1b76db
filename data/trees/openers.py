"""Openers, closers, stop tokens of a conversation, derived from any chat template."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.template import render_messages, take_apart
from data.trees.engine import Request
from data.trees.nodes import Role

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
        roots: For each system prompt (None: the template's own) all before the first user text: what the model continues as the user.
        after: What stands between a turn and the one to be written, by the role of the turn before: its closer, the other role's opener.
        past: The same between two turns that are both written; differs in templates that forget thoughts once a turn is over.
        stops: What ends a turn, by its role.
        markers: Strings that no turn's text may hold; one that does has spoken for the other side.
        template_hash: sha256 of the template's text.
    """

    roots: Mapping[str | None, str]
    after: Mapping[Role, str]
    past: Mapping[Role, str]
    stops: Mapping[Role, Stop]
    markers: tuple[str, ...]
    template_hash: str

    def prompt(self, system: str | None, turns: Sequence[tuple[Role, str]]) -> str:
        """What the model continues after some turns: each turn's text, then the opener of the other role (arXiv 2406.11354)."""
        written = "".join(text + self.past[role] for role, text in turns[:-1])
        return self.roots[system] + written + "".join(text + self.after[role] for role, text in turns[-1:])


def derive(tokenizer: Any, *, systems: Sequence[str | None] = (None,), thinking: bool = False, end_ids: Iterable[int] = ()) -> Openers:
    """Takes a tokenizer's chat template apart.

    Args:
        tokenizer: Any tokenizer with a chat template.
        systems: System prompts to open dialogues with; None is what the template writes by itself. All of them texts, or none.
        thinking: What the template gets as `enable_thinking`.
        end_ids: Further tokens that end a turn, e.g. those of the model's generation config.

    Raises:
        ValueError: There is no template, or it refuses the roles system (when given), user, assistant, user, assistant.
    """
    head = () if None in systems else ("system",)
    skeleton = take_apart((*head, "user", "assistant", "user", "assistant"), tokenizer, thinking=thinking)
    offset = len(head)
    roots: dict[str | None, str] = {None: skeleton.pieces[0]} if not head else {}
    for system in systems:
        if system is not None:
            roots[system] = skeleton.pieces[0] + skeleton.texts([system, "", "", "", ""])[0] + skeleton.pieces[1]
    pieces, closers = skeleton.pieces[offset:], skeleton.closers[offset:]
    after: dict[Role, str] = {"user": _answer_opener(tokenizer, pieces[1], thinking), "assistant": pieces[2]}
    specials = _special_strings(tokenizer)
    ends = {*end_ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    stops: dict[Role, Stop] = {
        "user": _stop(closers[0], after["user"], tokenizer, ends),
        "assistant": _stop(closers[1], after["assistant"], tokenizer, ends),
    }
    markers = {*specials, *(text for piece in after.values() for text in _plain_markers(piece, specials))}
    return Openers(
        roots=roots,
        after=after,
        past={"user": pieces[1], "assistant": pieces[2]},
        stops=stops,
        markers=tuple(sorted(markers)),
        template_hash=hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
    )


def requests(prompts: Sequence[str], seeds: Sequence[int], tokenizer: Any) -> list[Request]:
    """Prompts as an engine takes them.

    The whole prompt is tokenised at once, as training does. A blank at its end is left to the model where the tokenizer would
    join it with the next word (Llama-2's "[INST] "): a lone blank there is something no model was trained on.
    """
    trimmed = {prompt: _without_lone_blank(prompt, tokenizer) for prompt in prompts}  # siblings have one prompt
    ids = dict(zip(trimmed, map(tuple, tokenizer(list(trimmed.values()), add_special_tokens=False)["input_ids"]), strict=True))
    return [Request(prompt=trimmed[prompt], ids=ids[prompt], seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def _without_lone_blank(prompt: str, tokenizer: Any) -> str:
    return prompt.rstrip(" ") if prompt.endswith(" ") and not _is_boundary(prompt, tokenizer) else prompt


def _is_boundary(prompt: str, tokenizer: Any) -> bool:
    """Whether the tokens of the prompt's last line stay the same whatever word follows."""
    tail = prompt[-32:]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return all(tokenizer(tail + probe, add_special_tokens=False)["input_ids"][: len(ids)] == ids for probe in _PROBES)


def _answer_opener(tokenizer: Any, piece: str, thinking: bool) -> str:
    """What stands between a question and its answer: the template's generation prompt, where that says more than a written turn.

    The two differ in templates with a thinking mode, whose generation prompt holds an empty thought that past turns lack.
    """
    generation = render_messages(["user"], [_MARK], tokenizer, add_generation_prompt=True, thinking=thinking).partition(_MARK)[2]
    return piece if piece.startswith(generation.rstrip()) else generation


def _special_strings(tokenizer: Any) -> tuple[str, ...]:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys([*added, *tokenizer.all_special_tokens]))


def _stop(closer: str, after: str, tokenizer: Any, ends: set[int]) -> Stop:
    """A turn ends at the first special token of what follows it, and at the text before that token where there is some."""
    specials = _special_strings(tokenizer)
    closer = (closer or after).strip(" ").rstrip()  # a line's end stays: "A:" alone would end "DNA:"
    found = re.search("|".join(map(re.escape, sorted(specials, key=len, reverse=True))), after) if specials else None
    ids = {*ends, *([tokenizer.convert_tokens_to_ids(found[0])] if found else [])}
    text = _split(closer, specials)[0].rstrip()
    return Stop(ids=tuple(sorted(ids)), texts=(text,) if text else ())


def _plain_markers(piece: str, specials: tuple[str, ...]) -> list[str]:
    """Parts of an opener outside its special tokens; bare words ("assistant") are left out, since texts may hold them."""
    parts = [part.strip() for part in _split(piece, specials)]
    return [part for part in parts if part and not re.fullmatch(r"[\w\s]+", part)]


def _split(text: str, specials: tuple[str, ...]) -> list[str]:
    return re.split("|".join(map(re.escape, sorted(specials, key=len, reverse=True))), text) if specials else [text]
