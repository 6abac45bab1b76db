"""Another corpus to compare a tree with: its first questions, drawn from all of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.trees.config import ReportConfig
from data.trees.reference import Reference, read_reference


def talks(path: Path, number: int, *extra: Any) -> ReportConfig:
    said = [[{"from": "human", "value": f"<image>\nQuestion {one}"}, {"from": "gpt", "value": "Yes."}] for one in range(number)]
    records = [{"id": one, "image": "none.png", "conversations": turns} for one, turns in enumerate(said)]
    path.write_text(json.dumps([*records, *extra]), encoding="utf-8")
    return ReportConfig.model_validate({"reference": str(path), "map_points": 20})


def test_no_reference_is_read_where_none_is_named() -> None:
    assert read_reference(ReportConfig.model_validate({})) is None


def test_first_questions_are_read_without_marks_of_pictures(tmp_path: Path) -> None:
    broken, silent = (
        {"conversations": 7},
        {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}], "image": "a"},
    )
    found = read_reference(talks(tmp_path / "talks.json", 5, broken, silent))
    assert found == Reference(
        name="talks.json", questions=tuple(f"Question {one}" for one in range(5)), dialogues=7, without_question=1, bad_records=1
    )


def test_as_many_questions_are_drawn_as_the_map_has_room_for_from_the_whole_corpus(tmp_path: Path) -> None:
    found = read_reference(talks(tmp_path / "talks.json", 400))
    assert found is not None
    numbers = [int(text.split()[1]) for text in found.questions]
    assert len(set(numbers)) == 20 and max(numbers) > 300 and 100 < np.mean(numbers) < 300


def test_a_corpus_without_questions_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"report\.reference .*talks\.json: expected dialogues with questions, got 0 without and 1 bad"):
        read_reference(talks(tmp_path / "talks.json", 0, {"conversations": 7}))
