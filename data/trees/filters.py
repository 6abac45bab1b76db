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

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no text

# How models write who speaks when they go on to answer themselves. "Answer:", "Question:", "System:", "AI:" are left out:
# solutions, listings and glossaries hold them.
_SPEAKERS = (
    "User|USER|Human|HUMAN|Assistant|ASSISTANT|ChatGPT|GPT|Chatbot|Benutzer|Utilisateur|Usuario|Asistente|Пользователь|Ассистент|用户|助手"
)
_LATER_LINE = re.compile(rf"\n[ \t]*(?:\*\*)?(?:{_SPEAKERS})(?:\*\*)?[ \t]?[:：]")
_HEADING = re.compile(
    r"^#{2,4} ?(?:(?:Instruction|Response|Input|Human|Assistant|User)\s*:|(?:Instruction|Human|Assistant)[ \t]*$)", re.MULTILINE
)
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
        markers: Strings of the chat template that no turn may hold.

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


def speaks_for_both(text: str) -> bool:
    """Whether a turn goes on to write the other side's turns.

    Seen by a mark of any widespread chat template, by a heading such as "### Instruction:", or by a speaker's name with a colon that
    begins a line after the first ("User:"). A name inside a line is ordinary text.
    """
    return any(pattern.search(text) for pattern in (_FOREIGN_MARK, _HEADING, _LATER_LINE))


def _checks(config: FilterConfig, markers: tuple[str, ...]) -> Iterator[tuple[Reason, Check]]:
    """The checks that a config asks for, in the order of `Reason`."""
    if config.unfinished:
        yield "unfinished", lambda turn: turn.finish_reason != "stop"
    yield "empty", lambda turn: not any(map(str.isalnum, turn.text))
    yield "broken_text", lambda turn: REPLACEMENT in turn.text
    if config.role_leak:
        yield "role_leak", lambda turn: any(marker in turn.text for marker in markers) or speaks_for_both(turn.text)
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
