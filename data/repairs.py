"""Oddities of dialogues, put right where that is safe."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.conversation import Role
from data.images import ImageSource
from data.problems import BadRecord


@dataclass(frozen=True, kw_only=True)
class Said:
    """A turn as its record writes it.

    Attributes:
        role: Who speaks.
        text: What is said.
        weight: Of the turn's tokens in the loss.
        images: For each `<image>` in the text its picture; None: the next one of the record's own.
        calls_tools: Whether the turn held calls of tools beside its text.
    """

    role: Role
    text: str
    weight: float = 1.0
    images: tuple[ImageSource | None, ...] = ()
    calls_tools: bool = False


def repaired(written: Sequence[Said | None]) -> tuple[list[Said], tuple[str, ...]]:
    """The turns as a dialogue in which user and assistant alternate, with the names of what was put right for it.

    Args:
        written: The turns in order; None for one of a tool.

    Returns:
        The turns; names in `data.problems.REPAIRS`.

    Raises:
        BadRecord: Nothing is left, or nothing that has text.
    """
    turns = [turn for turn in written if turn is not None]
    repairs = {"tool_turns": len(turns) < len(written) or any(turn.calls_tools for turn in turns)}
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), len(turns))
    kept = [turn for number, turn in enumerate(turns) if turn.role != "assistant" or number > first]
    repairs["starts_with_answer"] = len(kept) < len(turns)
    joined = [_together(list(run)) for _, run in itertools.groupby(kept, key=lambda turn: turn.role)]
    repairs["same_speaker_twice"] = len(joined) < len(kept)
    dialogue = [turn for turn in joined if turn.role != "system"]
    if not any(turn.text.strip() for turn in dialogue):
        has = "no turn of the user" if not dialogue else "no text in any turn"
        raise BadRecord("empty", f"{has} is left; give a question with its answer, or remove the record")
    empty = {turn.role for turn in dialogue if not turn.text.strip()}
    repairs |= {"empty_question": "user" in empty, "empty_answer": "assistant" in empty, "no_last_answer": dialogue[-1].role == "user"}
    silent = [replace(turn, weight=0.0) if turn.role == "assistant" and not turn.text.strip() else turn for turn in joined]
    return silent, tuple(name for name, was_needed in repairs.items() if was_needed)


def _together(turns: Sequence[Said]) -> Said:
    """Turns of one speaker as one; what any of them keeps out of the loss stays out."""
    if len(turns) == 1:
        return turns[0]
    text = "\n".join(turn.text for turn in turns if turn.text)
    images = tuple(itertools.chain.from_iterable(turn.images for turn in turns))
    return replace(turns[0], text=text, weight=min(turn.weight for turn in turns), images=images)
