"""First questions of another corpus, to compare a tree with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.config import SourceConfig
from data.conversation import IMAGE_MARK, Conversation
from data.problems import Problem
from data.readers import stream
from data.trees.config import ReportConfig


@dataclass(frozen=True, kw_only=True)
class Reference:
    """First questions of another corpus.

    Attributes:
        name: Name of its file or folder.
        questions: Drawn from all of them.
        dialogues: Records that were read, whether they hold a question or not.
        without_question: Of those, records in which nobody asks anything.
        bad_records: Of those, records that could not be read.
    """

    name: str
    questions: tuple[str, ...]
    dialogues: int
    without_question: int
    bad_records: int


def read_reference(config: ReportConfig) -> Reference | None:
    """Draws `map_points` first questions of the reference corpus, reading it once; None where the recipe names none.

    Raises:
        FileNotFoundError: There is no such corpus.
        ValueError: Its format is unknown, or no dialogue of it has a question.
    """
    if config.reference is None:
        return None
    rng = np.random.default_rng(config.seed)
    drawn: list[str] = []
    seen = silent = bad = 0
    first_problem = ""
    for one in stream(SourceConfig.model_validate({"path": config.reference, "format": config.reference_format})):
        if isinstance(one, Problem):
            bad += 1
            first_problem = first_problem or f"; the first of them: {one.message}"
            continue
        question = _first_question(one)
        if not question:
            silent += 1
            continue
        at = seen if seen < config.map_points else int(rng.integers(seen + 1))
        if at < config.map_points:
            drawn[at : at + 1] = [question]  # beyond the end: one more
        seen += 1
    if not seen:
        raise ValueError(
            f"tree.report.reference {config.reference}: expected dialogues with questions, got {silent} without and {bad} bad "
            f"records{first_problem}; correct the path or reference_format ({config.reference_format}), or leave reference out"
        )
    return Reference(
        name=Path(config.reference).name, questions=tuple(drawn), dialogues=seen + silent + bad, without_question=silent, bad_records=bad
    )


def _first_question(dialogue: Conversation) -> str:
    asked = next((turn.text for turn in dialogue.turns if turn.role == "user"), "")
    return asked.replace(IMAGE_MARK, " ").strip()
