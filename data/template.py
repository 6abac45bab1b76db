"""A chat template taken apart: what it writes before, between and after the turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

# Private-use characters: no template writes them, no data holds them.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What a template writes around the texts of one sequence of roles.

    Attributes:
        roles: The roles, in order.
        pieces: What stands before each turn's text, then what stands after the last: one more than there are turns.
        closers: For each turn, what closes it: the beginning of the next piece. Empty for a system turn.
        strips: For each turn, whether the template strips white space from its text (left, right).
    """

    roles: tuple[str, ...]
    pieces: tuple[str, ...]
    closers: tuple[str, ...]
    strips: tuple[tuple[bool, bool], ...]

    def texts(self, contents: Sequence[str]) -> list[str]:
        """The turns' texts as the template would write them."""
        stripped = []
        for text, (left, right) in zip(contents, self.strips, strict=True):
            text = text.lstrip() if left else text
            stripped.append(text.rstrip() if right else text)
        return stripped


def take_apart(roles: Sequence[str], tokenizer: Any) -> Skeleton:
    """Renders the template with marks in place of texts and splits it at the marks.

    Raises:
        ValueError: The tokenizer has no template, or its template refuses this sequence of roles or drops a turn's text.
    """
    marks = [f"{_OPEN}{position}{_CLOSE}" for position in range(len(roles))]
    pieces = _split(render_messages(roles, marks, tokenizer), marks)
    padded = _split(render_messages(roles, [f"\t{mark}\n" for mark in marks], tokenizer), marks)
    kept = [_kept_blanks(piece, with_blanks) for piece, with_blanks in zip(pieces, padded, strict=True)]
    return Skeleton(
        roles=tuple(roles),
        pieces=tuple(pieces),
        closers=tuple(_closer(roles, marks, position, pieces[position + 1], tokenizer) for position in range(len(roles))),
        strips=tuple((not before[1], not after[0]) for before, after in pairwise(kept)),
    )


def render_messages(roles: Sequence[str], texts: Sequence[str], tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    """Renders messages through the template as text, whether it takes contents as strings or as lists of parts."""
    if not tokenizer.chat_template:
        raise ValueError(f"tokenizer {tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template and save it again")
    parts = [[{"type": "text", "text": text}] for text in texts]
    problems: dict[str, None] = {}  # in order, each once
    for contents in (list(texts), parts):
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            # enable_thinking is given so that templates with a thinking mode write one and the same thing everywhere.
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
            )
        except Exception as error:  # noqa: BLE001 - templates raise what they like: jinja errors, TypeError for the wrong kind of content
            problems[str(error)] = None
            continue
        if all(one.strip() in text for one in texts):
            return str(text)
        problems["it leaves a text out, or rewrites it"] = None
    raise ValueError(f"the chat template cannot render turns of {', '.join(roles)}: {'; '.join(problems)}")


def _split(text: str, marks: Sequence[str]) -> list[str]:
    pieces = []
    for mark in marks:
        before, _, text = text.partition(mark)
        pieces.append(before)
    return [*pieces, text]


def _kept_blanks(piece: str, padded: str) -> tuple[bool, bool]:
    """Whether blanks survive behind the text before a piece, in front of the text after it."""
    for before, after in ((False, False), (True, False), (False, True), (True, True)):
        if padded == "\n" * before + piece + "\t" * after:
            return before, after
    raise ValueError(f"the chat template writes {padded!r} in place of {piece!r} when texts begin or end with white space")


def _closer(roles: Sequence[str], marks: Sequence[str], position: int, following: str, tokenizer: Any) -> str:
    """What ends a turn: the part that stands there whether or not another turn follows."""
    if roles[position] == "system":  # no loss ever falls on it; several templates refuse a system turn alone
        return ""
    prefix = render_messages(roles[: position + 1], marks[: position + 1], tokenizer)
    tail = prefix.partition(marks[position])[2]
    # White space after the closing token belongs to nobody's turn: a model stops before it.
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(tail, following, strict=False))
    return "".join(character for character, _ in shared).rstrip()
