"""What a sequence comes to: measures, matrix, report."""

from pathlib import Path
from typing import Any

import pytest

from train.sequence_matrix import matrix, measures
from train.sequence_report import render, rows, sentence, table

GROUPS = {"a": "target", "b": "target", "c": "target", "see": "held_out_visual", "read": "held_out_text"}
BEFORE = {"a": 0.1, "b": 0.2, "c": 0.0, "see": 0.9, "read": 1.0}
STAGES = [
    {"a": 0.7, "b": 0.2, "c": 0.1, "see": 0.8, "read": 1.0},
    {"a": 0.4, "b": 0.6, "c": 0.1, "see": 0.5, "read": 0.9},
]


@pytest.mark.parametrize(
    ("name", "mean", "total"),
    [
        ("target_learning", 0.5, 1.0),  # 0.7 - 0.1, 0.6 - 0.2
        ("target_forgetting", -0.3, -0.3),  # 0.4 - 0.7; the last task has nothing behind it
        ("target_overall", 0.35, 0.7),  # 0.4 - 0.1, 0.6 - 0.2
        ("held_out_forgetting", -0.25, -0.5),  # 0.5 - 0.9, 0.9 - 1.0
        ("held_out_visual", -0.4, -0.4),
        ("held_out_text", -0.1, -0.1),
    ],
)
def test_a_measure_is_what_one_computes_by_hand(name: str, mean: float, total: float) -> None:
    found = measures(BEFORE, STAGES, ["a", "b"], GROUPS)[name]
    assert (found["mean"], found["total"]) == (pytest.approx(mean), pytest.approx(total))


def test_one_task_alone_forgets_no_target() -> None:
    assert measures(BEFORE, STAGES[:1], ["a"], GROUPS)["target_forgetting"] is None


@pytest.fixture
def two_seeds() -> dict[str, Any]:
    """A matrix of one order with two seeds, the second better by a tenth everywhere."""
    better = [{name: value + 0.1 for name, value in stage.items()} for stage in STAGES]
    sequences = [
        {
            "order": 1,
            "seed": seed,
            "tasks": ["a", "b"],
            "stages": [
                {"task": task, "scores": scores, "number_token_probability": None, "seconds": 1.0, "run": "x"}
                for task, scores in zip("ab", stages, strict=True)
            ],
        }
        for seed, stages in enumerate((STAGES, better))
    ]
    base = {"model": "base", "scores": BEFORE}
    return {"suite": "made up", "settings": {"merge": None}, **matrix(base, sequences, GROUPS)}


def test_seeds_are_averaged(two_seeds: dict[str, Any]) -> None:
    (order,) = two_seeds["orders"]
    assert order["scores"][1]["a"] == pytest.approx(0.75)
    assert order["measures"]["target_learning"]["means"] == pytest.approx([0.5, 0.6])
    assert two_seeds["measures"]["target_learning"]["mean"] == pytest.approx(0.55)


def test_an_unfinished_sequence_has_scores_but_no_measures(two_seeds: dict[str, Any]) -> None:
    sequences = two_seeds["sequences"]
    sequences[1]["stages"].pop()
    found = matrix(two_seeds["base"], sequences, GROUPS)
    assert [one["measures"] is None for one in found["sequences"]] == [False, True]
    assert found["orders"][0]["seeds"] == [0]


def test_the_page_needs_no_other_file(two_seeds: dict[str, Any], tmp_path: Path) -> None:
    page = render(two_seeds, tmp_path).read_text()
    assert page.count("<img") == page.count('src="data:image/png;base64,') == 1
    assert "http" not in page


def test_the_table_has_a_row_for_each_sequence_and_their_mean(two_seeds: dict[str, Any]) -> None:
    assert [line[0] for line in rows(two_seeds)] == ["a → b", "a → b", "mean"]
    assert "+50.0 (+100.0)" in table(two_seeds)


def test_the_sentence_tells_gain_and_loss(two_seeds: dict[str, Any]) -> None:
    assert "each of 2 skills had gained +55.0 points" in sentence(two_seeds)
