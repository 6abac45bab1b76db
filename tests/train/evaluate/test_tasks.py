"""Suites: what is read, what is refused with which words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.images import ImageSource
from train.evaluate.tasks import load_suite


def change(suite_path: Path, number: int, **values: Any) -> None:
    """Alters one task of a suite file; None takes the key away."""
    content = yaml.safe_load(suite_path.read_text())
    task = content["tasks"][number] | values
    content["tasks"][number] = {key: value for key, value in task.items() if value is not None}
    suite_path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_suite_is_read_with_its_questions_and_pictures(suite_path: Path) -> None:
    suite = load_suite(suite_path)
    assert [(task.name, task.group, len(task.questions)) for task in suite.tasks] == [
        ("counting", "target", 6),
        ("colour", "held_out_visual", 6),
        ("facts", "held_out_text", 5),
        ("sums", "held_out_text", 5),
    ]
    question = suite.tasks[0].questions[0]
    assert (question.text, question.expected) == ("How many red circles are there?", "There are 1 red circles.")
    assert question.conversation.images == (ImageSource(str(suite_path.parent / "images/red.png")),)
    assert suite.name == "terrarium"


def test_only_the_last_answer_of_a_dialogue_is_expected(suite_path: Path) -> None:
    turns = [("human", "Hello"), ("gpt", "Good day."), ("human", "Bye"), ("gpt", "Farewell.")]
    record = {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}
    (suite_path.parent / "facts.json").write_text(json.dumps([record]))
    question = load_suite(suite_path).tasks[2].questions[0]
    assert (question.text, question.expected) == ("Bye", "Farewell.")


def test_a_limit_keeps_the_first_questions_of_every_task(suite_path: Path) -> None:
    suite = load_suite(suite_path)
    limited = suite.limited(2)
    assert [task.questions for task in limited.tasks] == [task.questions[:2] for task in suite.tasks]


@pytest.mark.parametrize(
    ("number", "values", "words"),
    [
        (0, {"score": "cuont"}, ["tasks[0].score", "task 'counting'", "'cuont'", "did you mean 'count'?"]),
        (1, {"group": "heldout_visual"}, ["tasks[1].group", "task 'colour'", "did you mean 'held_out_visual'?"]),
        (2, {"pth": "x"}, ["tasks[2].pth", "task 'facts'", "unknown key", "did you mean 'path'?"]),
        (3, {"path": None}, ["tasks[3].path", "task 'sums'", "missing"]),
        (2, {"max_tokens": 0}, ["tasks[2].max_tokens", "task 'facts'", "greater than or equal to 1", "0"]),
        (1, {"name": "counting"}, ["2 tasks", "'counting'"]),
        (1, {"score": "clock"}, ["task 'colour'", "colour.json record 0", "The square is red.", "'clock'"]),
    ],
)
def test_a_wrong_entry_is_named_with_its_task_and_the_nearest_right_name(
    suite_path: Path, number: int, values: dict[str, Any], words: list[str]
) -> None:
    change(suite_path, number, **values)
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        load_suite(suite_path)
    assert all(word in str(error.value) for word in [str(suite_path), *words]), str(error.value)


def test_a_missing_task_file_is_named_with_the_file_that_was_probably_meant(suite_path: Path) -> None:
    change(suite_path, 0, path="countign.json")
    with pytest.raises(FileNotFoundError, match=r"task 'counting': file .*countign.json does not exist .*did you mean .*counting.json\?"):
        load_suite(suite_path)


def test_a_missing_suite_is_named_with_the_file_that_was_probably_meant(suite_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"siute.yaml does not exist .*did you mean .*suite.yaml\?"):
        load_suite(suite_path.with_name("siute.yaml"))


def test_a_missing_picture_is_named_with_its_record(suite_path: Path) -> None:
    (suite_path.parent / "images/green.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"task 'counting': counting.json record 1: picture .*green.png does not exist"):
        load_suite(suite_path)


def test_a_dialogue_without_an_expected_answer_is_refused(suite_path: Path) -> None:
    (suite_path.parent / "sums.json").write_text(json.dumps([{"conversations": [{"from": "human", "value": "Two plus two?"}]}]))
    with pytest.raises(ValueError, match=r"task 'sums': sums.json record 0: ends with user"):
        load_suite(suite_path)


def test_a_task_without_records_is_refused(suite_path: Path) -> None:
    (suite_path.parent / "sums.json").write_text("[]")
    with pytest.raises(ValueError, match="task 'sums': .* holds no record"):
        load_suite(suite_path)


@pytest.mark.parametrize("text", ["tasks: [", "tasks: []", "- 1", "", "tasks: 5"])
def test_a_file_that_is_no_suite_is_refused_by_name(suite_path: Path, text: str) -> None:
    suite_path.write_text(text)
    with pytest.raises(ValueError, match="suite.yaml"):
        load_suite(suite_path)
