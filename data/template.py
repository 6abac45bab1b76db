"""A chat template taken apart: what it writes before, between and after the turns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

# Llama's templates write the day of use unless they are given one: what is learned must not depend on the day it is read.
DATE = "26 Jul 2024"

# Private-use characters: no template writes them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_BLANKS = " \t\n"
# Whatever a template could escape, quote, fold or cut.
_AWKWARD = "aB  \t\n\n c\\n'\"&%{{ d }}{# \u00e9"
# A literal that can only be meant as markup, in a template's source.
_MARKUP = re.compile(r"[<>\[\]{}|/\\#@^~`*=_｜]")
_SOUGHT = re.compile(
    r"\.(?:startswith|endswith|r?split|r?partition|replace|r?find|r?index|count|removeprefix|removesuffix)\(\s*(['\"])(?P<argument>.+?)\1"
    r"|(['\"])(?P<member>[^'\"]*\W[^'\"]*)\3\s+(?:not\s+)?in\b"
)


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What a template writes around the texts of one sequence of roles.

    Attributes:
        roles: The roles, in order.
        pieces: What stands before each turn's text, then what stands after the last: one more than there are turns.
        closers: For each turn, what closes it: the beginning of the next piece. Empty for a system turn.
        strips: For each turn, the characters that the template strips from its text (left, right); None: all white space.
        in_parts: Whether the template takes contents as lists of parts rather than as strings.
    """

    roles: tuple[str, ...]
    pieces: tuple[str, ...]
    closers: tuple[str, ...]
    strips: tuple[tuple[str | None, str | None], ...]
    in_parts: bool

    @property
    def strips_some(self) -> bool:
        """Whether some kinds of white space are stripped while others are kept."""
        return any(one for one in chain.from_iterable(self.strips))

    def texts(self, contents: Sequence[str]) -> list[str]:
        """The turns' texts as the template would write them."""
        return [text.lstrip(left).rstrip(right) for text, (left, right) in zip(contents, self.strips, strict=True)]


def take_apart(roles: Sequence[str], tokenizer: Any, *, thinking: bool = False) -> Skeleton:
    """Renders the template with marks in place of texts and splits it at the marks.

    Args:
        roles: Who speaks, turn by turn.
        tokenizer: Its template is taken.
        thinking: What the template gets as `enable_thinking`.

    Raises:
        ValueError: The tokenizer has no template, or its template refuses this sequence of roles, drops a turn's text or changes it.
    """
    roles = tuple(roles)
    in_parts = _takes_parts(roles, tokenizer, thinking)

    def render(roles: Sequence[str], texts: Sequence[str]) -> str:
        return render_messages(roles, texts, tokenizer, thinking=thinking, in_parts=in_parts)

    marks = _marks(len(roles))
    pieces = _split(render(roles, marks), marks)
    # Two different blanks at once, so that what is left of them can be told apart.
    kept: dict[str, list[tuple[bool, bool]]] = {}
    for left, right in zip(_BLANKS, _BLANKS[1:] + _BLANKS[0], strict=True):
        padded = _split(render(roles, [left + mark + right for mark in marks]), marks)
        kept[left + right] = [_kept(piece, after, left, right) for piece, after in zip(pieces, padded, strict=True)]
    bodies = [mark[:-1] + _AWKWARD + _CLOSE for mark in marks]
    if render(roles, bodies) != "".join(chain.from_iterable(zip(pieces, [*bodies, ""], strict=True))):
        raise ValueError(f"the chat template changes texts of {', '.join(roles)}: it escapes, folds or cuts them")
    return Skeleton(
        roles=roles,
        pieces=tuple(pieces),
        closers=_closers(roles, pieces, render, _words(tokenizer)),
        strips=tuple(
            (
                _stripped(pads[0] for pads, found in kept.items() if not found[turn][1]),
                _stripped(pads[1] for pads, found in kept.items() if not found[turn + 1][0]),
            )
            for turn in range(len(roles))
        ),
        in_parts=in_parts,
    )


def render_messages(
    roles: Sequence[str],
    texts: Sequence[str],
    tokenizer: Any,
    *,
    add_generation_prompt: bool = False,
    thinking: bool = False,
    in_parts: bool | None = None,
) -> str:
    """Renders messages through the template as text.

    Args:
        roles: Who speaks, turn by turn.
        texts: What is said.
        tokenizer: Its template is used.
        add_generation_prompt: Whether the opener of an answer is written at the end.
        thinking: What the template gets as `enable_thinking`. It is always given, so that one and the same thing is written everywhere.
        in_parts: Whether contents are given as lists of parts; None: as the template takes them.

    Raises:
        ValueError: There is no template, or it refuses the turns.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"tokenizer {tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template and save it again")
    if in_parts is None:
        in_parts = _takes_parts(roles, tokenizer, thinking)
    contents = [[{"type": "text", "text": text}] for text in texts] if in_parts else texts
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=thinking, date_string=DATE
        )
    except Exception as error:  # templates raise what they like: jinja errors, TypeError for the wrong kind of content
        raise ValueError(f"the chat template cannot render turns of {', '.join(roles)}: {error}") from error
    return str(text)


def sought(template: str) -> tuple[str, ...]:
    """Strings that a template may look for in texts: its markup, whatever it compares texts with.

    The skeleton of a text that holds none of them tells what the template writes.
    """
    from jinja2 import Environment

    literals = [value[1:-1] for _, kind, value in Environment().lex(template) if kind == "string"]
    literals = [one for one in map(_plain, literals) if len(one) > 1 and _MARKUP.search(one)]
    found = [_plain(match["argument"] or match["member"]) for match in _SOUGHT.finditer(template)]
    return tuple(dict.fromkeys(one for one in [*literals, *found, *re.findall(r"<[^<>\s{}'\"]+>", template)] if one))


def _plain(literal: str) -> str:
    """A literal of a template's source as the string it stands for, without white space around it."""
    return literal.encode("ascii", "backslashreplace").decode("unicode-escape", "replace").strip()


def _marks(count: int) -> list[str]:
    return [f"{_OPEN}{position}{_CLOSE}" for position in range(count)]


def _takes_parts(roles: Sequence[str], tokenizer: Any, thinking: bool) -> bool:
    """Whether the template writes contents given as lists of parts, rather than as strings."""
    marks = _marks(len(roles))
    problems: dict[str, None] = {}  # in order, each once
    for in_parts in (False, True):
        try:
            text = render_messages(roles, marks, tokenizer, thinking=thinking, in_parts=in_parts)
        except ValueError as error:
            if error.__cause__ is None:  # there is no template
                raise
            problems[str(error.__cause__)] = None
            continue
        if all(mark in text for mark in marks):
            return in_parts
        problems["it leaves a text out, or rewrites it"] = None
    raise ValueError(f"the chat template cannot render turns of {', '.join(roles)}: {'; '.join(problems)}")


def _split(text: str, marks: Sequence[str]) -> list[str]:
    pieces, rest = [], text
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise ValueError("the chat template writes the turns in another order, or a turn twice")
        pieces.append(before)
    return [*pieces, rest]


def _kept(piece: str, padded: str, left: str, right: str) -> tuple[bool, bool]:
    """Whether blanks survive behind the text before a piece (`right`), in front of the text after it (`left`)."""
    for before, after in ((False, False), (True, False), (False, True), (True, True)):
        if padded == right * before + piece + left * after:
            return before, after
    raise ValueError(f"the chat template writes {padded!r} in place of {piece!r} when texts begin or end with white space")


def _stripped(blanks: Any) -> str | None:
    found = "".join(blanks)
    return None if len(found) == len(_BLANKS) else found


def _words(tokenizer: Any) -> re.Pattern[str]:
    """What must not be cut: control tokens, markup, words."""
    tokens = sorted((str(one) for one in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, filter(str.strip, tokens)), r"<[^<>\s]*>", r"\[[^\[\]\s]*\]", r"\w+"]))


def _closers(roles: tuple[str, ...], pieces: Sequence[str], render: Any, words: re.Pattern[str]) -> tuple[str, ...]:
    """What ends each turn: the part that stands there whether or not another turn follows."""
    known: dict[tuple[str, str], str] = {}
    for position, (role, following) in enumerate(zip(roles, pieces[1:], strict=True)):
        if role == "system" or (role, following) in known:  # no loss ever falls on a system turn; several templates refuse one alone
            continue
        alone, continued = following, following
        if position + 1 < len(roles):
            alone = _behind(roles[: position + 1], position, render)
        else:
            other = "user" if role == "assistant" else "assistant"
            try:
                continued = _behind((*roles, other), position, render)
            except ValueError:  # nothing may follow here
                continued = following
        known[role, following] = _shared(alone, continued, words)
    return tuple(known.get((role, following), "") for role, following in zip(roles, pieces[1:], strict=True))


def _behind(roles: Sequence[str], position: int, render: Any) -> str:
    """What stands between a turn's text and the next, or the end."""
    marks = _marks(len(roles))
    return _split(render(roles, marks), marks)[position + 1]


def _shared(one: str, other: str, words: re.Pattern[str]) -> str:
    """What both begin with, in whole words: "<|" of two control tokens is part of neither."""
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    cut = [match.start() for text in (one, other) for match in words.finditer(text) if match.start() < end < match.end()]
    # White space after the closing token belongs to nobody's turn: a model stops before it.
    return one[: min(cut, default=end)].rstrip()
