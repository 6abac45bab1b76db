"""What distilling costs, from made-up evaluations."""

from typing import Any

import pytest

from train.evaluate.paired import change, mean
from train.student_cost import cost, markdown

GROUPS = {"counting": "target", "clock": "target", "facts": "held_out_text", "sums": "held_out_text", "colour": "held_out_visual"}
RIGHT = {
    "base": {"counting": "0000", "clock": "0000", "facts": "1111", "sums": "11", "colour": "1111"},
    "siamese": {"counting": "1100", "clock": "1000", "facts": "1111", "sums": "10", "colour": "1110"},
    "twin": {"counting": "1110", "clock": "1000", "facts": "1000", "sums": "10", "colour": "1000"},
    "distilled": {"counting": "1000", "clock": "0000", "facts": "1101", "sums": "11", "colour": "1110"},
}


def evaluation(right: dict[str, str]) -> dict[str, Any]:
    """Answers "yes" where the digit is 1, "no" where it is 0."""
    tasks = {}
    for name, digits in right.items():
        answers = [{"id": str(at), "answer": "Yes." if digit == "1" else "No.", "correct": digit == "1"} for at, digit in enumerate(digits)]
        tasks[name] = {"group": GROUPS[name], "n": len(digits), "accuracy": digits.count("1") / len(digits), "answers": answers}
    return {"suite": "made up", "tasks": tasks, "groups": {}}


@pytest.fixture
def evaluations() -> dict[str, dict[str, Any]]:
    return {name: evaluation(right) for name, right in RIGHT.items()}


def group_of(found: dict[str, Any], name: str, group: str) -> dict[str, Any]:
    model = next(one for one in found["models"] if one["name"] == name)
    part: dict[str, Any] = model["groups"][group]
    return part


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("distilled", "target", -0.25),  # counting 1/4 - 2/4, clock 0 - 1/4
        ("distilled", "held_out_text", 0.125),  # facts 3/4 - 1, sums 1 - 1/2
        ("distilled", "held_out_visual", 0.0),
        ("base", "target", -0.375),
        ("twin", "held_out_text", -0.375),
    ],
)
def test_a_change_is_the_mean_over_the_groups_tasks(evaluations: dict[str, dict[str, Any]], name: str, group: str, expected: float) -> None:
    assert group_of(cost(evaluations), name, group)["change"] == pytest.approx(expected)


def test_a_change_has_the_interval_of_its_tasks_together(evaluations: dict[str, dict[str, Any]]) -> None:
    facts = change([True, True, True, True], [True, True, False, True])
    sums = change([True, False], [True, True])
    both = mean([facts, sums])
    assert group_of(cost(evaluations), "distilled", "held_out_text")["interval"] == [both.low, both.high]


def test_a_named_target_leaves_the_other_targets_out(evaluations: dict[str, dict[str, Any]]) -> None:
    found = cost(evaluations, "counting")
    assert group_of(found, "siamese", "target")["accuracy"] == 0.5
    assert group_of(found, "distilled", "target")["n"] == 4


def test_same_answers_are_counted_question_by_question(evaluations: dict[str, dict[str, Any]]) -> None:
    distilled = next(one for one in cost(evaluations)["models"] if one["name"] == "distilled")
    assert distilled["questions"] == 18
    assert distilled["same_answers"] == pytest.approx(14 / 18)  # counting 3 of 4, clock 3 of 4, facts 3 of 4, sums 1 of 2, colour 4 of 4


def test_answers_that_differ_in_case_and_stops_alone_are_the_same(evaluations: dict[str, dict[str, Any]]) -> None:
    for one in evaluations["distilled"]["tasks"]["facts"]["answers"]:
        one["answer"] = one["answer"].upper().rstrip(".")
    assert group_of(cost(evaluations), "distilled", "held_out_text")["same_answers"] == pytest.approx(4 / 6)


def test_the_sentence_says_what_distilling_cost(evaluations: dict[str, dict[str, Any]]) -> None:
    told = cost(evaluations, "counting")["sentence"]
    assert told.startswith("Distilling changed counting by −25.0 points (")
    assert ", text by +12.5 points (" in told
    assert told.endswith("both give the same answer to 78.6 % of 14 questions.")  # 11 of 14


def test_the_table_has_a_row_for_each_model(evaluations: dict[str, dict[str, Any]]) -> None:
    lines = markdown(cost(evaluations, "counting")).splitlines()
    assert lines[0] == "| model | counting, % | points | text, % | points | images, % | points | same answers, % |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:6]] == ["base alone", "siamese", "twin alone", "distilled"]
    assert lines[3] == "| siamese | 50.0 |  | 75.0 |  | 75.0 |  |  |"


def test_a_group_that_was_not_asked_has_no_column(evaluations: dict[str, dict[str, Any]]) -> None:
    for one in evaluations.values():
        del one["tasks"]["colour"]
    assert "images" not in markdown(cost(evaluations))


def test_models_that_answered_other_questions_are_refused(evaluations: dict[str, dict[str, Any]]) -> None:
    evaluations["distilled"]["tasks"]["facts"]["answers"].reverse()
    with pytest.raises(ValueError, match="run 'distilled', task 'facts': not the base's questions"):
        cost(evaluations)
