"""Turns that are of no use, each for a named reason."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from data.trees.config import FilterConfig
from data.trees.contamination import EvaluationQuestions
from data.trees.engine import FinishReason
from data.trees.languages import is_in_another_language
from data.trees.personal import holds_personal_data
from data.trees.refusals import is_refusal
from data.trees.repetition import is_loop

Reason = Literal[
    "unfinished",
    "empty",
    "broken_text",
    "role_leak",
    "repetition",
    "refusal",
    "personal_data",
    "wrong_language",
    "too_short",
    "too_long",
    "contaminated",
]
"""Why a turn is dropped, in the order in which reasons are looked for."""

# What a decoder writes for bytes that are no text; halves of a character, which no file holds.
_NO_TEXT = re.compile(r"[\ufffd\ud800-\udfff]")

# How models write who speaks when they go on to answer themselves.
_USERS = frozenset("User USER Human HUMAN Benutzer Utilisateur Usuario Пользователь 用户".split())
_ASSISTANTS = frozenset("Assistant ASSISTANT ChatGPT GPT Chatbot Asistente Ассистент 助手".split())
_BESIDE_USERS = _ASSISTANTS | {"AI", "Bot"}  # alone, these two stand in glossaries
# No persons of a play, though they open lines: solutions and listings do not excuse the speaker beside them.
_NO_CAST = frozenset(
    "AI Bot Q A Question Answer Response Solution System Model Input Output Note Hint Example Explanation Translation".split()
)
_LABEL = re.compile(r"[ \t]*(?:\*\*)?(?P<name>[^\W\d_][\w'’-]*(?: [\w'’-]+){0,2})(?:\*\*)?[ \t]?[:：](?:\*\*)?[ \t]*(?P<said>.*)")
_SENTENCE = re.compile(r"\W*(?:[^\W_]+(?:['’-]\w+)*,? +){2}[^\W_]|.*(?:[?!？！。]|\w .*\.)\W*$")  # three words, or what ends one
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,4} ?(?:(?:Instruction|Human|Assistant|User)\s*:|(?:Instruction|Human|Assistant)[ \t]*$)", re.MULTILINE)
_ANSWER_HEADING = re.compile(r"^#{2,4} ?Response\s*:", re.MULTILINE)
_FOREIGN_MARK = re.compile(
    r"<\|(?:im_start|im_end|im_sep|user|assistant|system|end|eot_id|eom_id|endoftext|end_of_text|start_header_id|end_header_id)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


class Turn(NamedTuple):
    """What a filter looks at."""

    role: Literal["user", "assistant"]
    text: str
    finish_reason: FinishReason


Check = Callable[[Turn], bool]


class Filters:
    """Says of each turn whether it is of use.

    Turns without any letter or digit ("empty"), or with bytes that are no text ("broken_text"), are never of use; every other reason is
    switched by its field of the config. Reasons are looked for in the order of `Reason`, so each turn is counted once.

    Args:
        config: The `filters` section.
        markers: Strings of the chat template that no turn may hold; those that begin with a letter or digit, at the start of a line.

    Raises:
        FileNotFoundError: A file of evaluation questions does not exist.
        ValueError: The language is unknown, or a file of evaluation questions cannot be read.
    """

    def __init__(self, config: FilterConfig, markers: Sequence[str]) -> None:
        self._checks = tuple(_checks(config, tuple(markers)))

    def reason(self, role: Literal["user", "assistant"], text: str, finish_reason: FinishReason) -> Reason | None:
        """The first reason against a turn; None when it is fine.

        Args:
            role: Who speaks.
            text: The turn, without what ended it.
            finish_reason: Whether it was ended or cut off.
        """
        turn = Turn(role, text.strip(), finish_reason)
        return next((reason for reason, applies in self._checks if applies(turn)), None)


def speaks_for_both(text: str, role: Literal["user", "assistant"]) -> bool:
    """Whether a turn goes on to write the other side's turns.

    Seen by a mark of any widespread chat template; by a heading such as "### Instruction:" ("### Response:" in a question only, since
    documentation of interfaces holds it); or by a speaker's name with a colon that begins a line, which counts when

    - speakers of both sides begin lines ("User:", "Assistant:");
    - in a question, the assistant begins a later line;
    - a later line goes on with a sentence ("User: And what about the mepple?", not "User: root"), or ends an answer ("User:"), unless
      the text is a play or a list: another name begins the line after the speaker's, or two lines ("Robot: I am Seven.").

    A name inside a line is ordinary text. Headings and names inside fenced code do not count; marks do, since tokenizers read them there.

    Args:
        text: The turn, without white space around it.
        role: Whose turn it is.
    """
    if _FOREIGN_MARK.search(text):
        return True
    prose = _FENCE.sub("```", text)
    if _HEADING.search(prose) or (role == "user" and _ANSWER_HEADING.search(prose)):
        return True
    return _has_other_speaker(prose, role)


def _has_other_speaker(prose: str, role: Literal["user", "assistant"]) -> bool:
    """Whether names that begin lines show that the other side speaks."""
    lines = [line for line in prose.splitlines() if line.strip()]
    labels = [_LABEL.match(line) for line in lines]
    names = [label["name"] if label else "" for label in labels]
    later = [place for place in range(1, len(lines)) if names[place] in _USERS | _ASSISTANTS]
    if not later:
        return False
    if not _USERS.isdisjoint(names) and not _BESIDE_USERS.isdisjoint(names):
        return True
    if role == "user" and not _ASSISTANTS.isdisjoint(names[1:]):
        return True
    said = [label["said"] if label else "" for label in labels] + [""]
    cast = [name if text and _is_of_cast(name) else "" for name, text in zip([*names, ""], said, strict=True)]
    if any(cast[place + 1] for place in later) or any(cast.count(name) > 1 for name in set(cast) - {""}):
        return False
    following = [said[place] or "".join(lines[place + 1 : place + 2]) for place in later]
    return any(map(_SENTENCE.match, following)) or (role == "assistant" and not following[-1])


def _is_of_cast(name: str) -> bool:
    return bool(name) and not name[0].islower() and name not in _USERS | _ASSISTANTS | _NO_CAST


def _marker_pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """Finds special tokens and bracket marks anywhere; what begins with a letter or digit ("A:") only where a line begins ("DNA:")."""
    places = ((r"^[ \t]*" if marker[0].isalnum() else "") + re.escape(marker) for marker in markers if marker)
    return re.compile("|".join(places) or "(?!)", re.MULTILINE)


def _checks(config: FilterConfig, markers: tuple[str, ...]) -> Iterator[tuple[Reason, Check]]:
    """The checks that a config asks for, in the order of `Reason`."""
    if config.unfinished:
        yield "unfinished", lambda turn: turn.finish_reason != "stop"
    yield "empty", lambda turn: not any(map(str.isalnum, turn.text))
    yield "broken_text", lambda turn: _NO_TEXT.search(turn.text) is not None
    if config.role_leak:
        marker = _marker_pattern(markers)
        yield "role_leak", lambda turn: marker.search(turn.text) is not None or speaks_for_both(turn.text, turn.role)
    if config.repetition:
        yield "repetition", lambda turn: is_loop(turn.text)
    if config.refusals:
        yield "refusal", lambda turn: turn.role == "assistant" and is_refusal(turn.text)
    if config.personal_data:
        yield "personal_data", lambda turn: holds_personal_data(turn.text)
    if config.language is not None:
        is_foreign = is_in_another_language(config.language)
        yield "wrong_language", lambda turn: is_foreign(turn.text)
    least, most = config.min_characters, config.max_characters
    yield "too_short", lambda turn: len(turn.text) < least
    if most is not None:
        yield "too_long", lambda turn: len(turn.text) > most
    if config.decontaminate:
        questions = EvaluationQuestions.read(config.decontaminate, config.overlap)
        yield "contaminated", lambda turn: questions.overlap(turn.text)
