"""Answers of a model, alone or in a batch; the evaluation that is made of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train.evaluate.evaluation import evaluate, load, save
from train.evaluate.generate import Request, answer
from train.evaluate.tasks import load_suite


def requests(suite_path: Path) -> list[Request]:
    limits = {"counting": 9, "colour": 4, "facts": 6, "sums": 3}
    return [
        Request(conversation=question.conversation, max_tokens=limits[task.name], expected_tokens=len(question.expected))
        for task in load_suite(suite_path).tasks
        for question in task.questions
    ]


def test_answers_in_a_batch_of_text_and_pictures_are_those_given_one_by_one(tiny: Any, suite_path: Path) -> None:
    model, processor = tiny
    asked = requests(suite_path)
    alone = answer(model, processor, asked, batch_size=1, progress=False)
    assert answer(model, processor, asked, batch_size=5, progress=False) == alone
    assert answer(model, processor, asked, batch_size=64, progress=False) == alone
    assert len({one.token_ids for one in alone}) > 3, "answers differ, so that a mix-up would show"


def test_an_answer_depends_on_its_picture(tiny: Any, suite_path: Path) -> None:
    model, processor = tiny
    colours = [request for request in requests(suite_path) if request.conversation.images]
    swapped = [
        replace(one, conversation=replace(one.conversation, images=other.conversation.images))
        for one, other in zip(colours, colours[1:] + colours[:1], strict=True)
    ]
    assert answer(model, processor, colours, progress=False) != answer(model, processor, swapped, progress=False)


def test_no_answer_is_longer_than_its_own_limit(tiny: Any, suite_path: Path) -> None:
    asked = requests(suite_path)
    lengths = [len(one.token_ids) for one in answer(*tiny, asked, progress=False)]
    assert all(length <= request.max_tokens for length, request in zip(lengths, asked, strict=True))


def test_an_answer_ends_with_its_first_closing_token(tiny: Any, suite_path: Path) -> None:
    model, processor = tiny
    asked = requests(suite_path)[:3]
    first = answer(model, processor, asked, progress=False)[0].token_ids
    model.generation_config.eos_token_id = first[2]
    assert answer(model, processor, asked, progress=False)[0].token_ids == first[: first.index(first[2]) + 1]


def test_the_expected_answer_is_not_shown_to_the_model(tiny: Any, suite_path: Path) -> None:
    asked = requests(suite_path)[:1]
    turns = asked[0].conversation.turns
    other = type(turns[-1])(role="assistant", text="Something else altogether.")
    hidden = replace(asked[0], conversation=replace(asked[0].conversation, turns=(*turns[:-1], other)))
    assert answer(*tiny, [hidden], progress=False) == answer(*tiny, asked, progress=False)


def test_pictures_for_a_model_without_a_picture_processor_are_refused(tiny: Any, suite_path: Path) -> None:
    model, processor = tiny
    with pytest.raises(ValueError, match="no picture processor"):
        answer(model, processor.tokenizer, requests(suite_path), progress=False)


def test_an_evaluation_holds_every_task_group_and_answer(tiny: Any, suite_path: Path) -> None:
    model, processor = tiny
    model.train()
    found = evaluate(model, processor, load_suite(suite_path), progress=False)
    assert {name: task["n"] for name, task in found["tasks"].items()} == {"counting": 6, "colour": 6, "facts": 5, "sums": 5}
    assert found["groups"].keys() == {"target", "held_out_visual", "held_out_text"}
    first = found["tasks"]["counting"]["answers"][0]
    assert first.keys() == {"id", "image", "question", "expected", "answer", "correct"}
    assert first["image"].endswith("red.png") and found["tasks"]["facts"]["answers"][0]["image"] is None
    assert 0 < found["number_token_probability"] < 1 and found["seconds"] > 0
    assert model.training, "the model's mode is put back"


def test_the_batch_size_changes_nothing_but_the_seconds(tiny: Any, suite_path: Path) -> None:
    suite = load_suite(suite_path)
    small, large = (evaluate(*tiny, suite, batch_size=size, progress=False) for size in (2, 64))
    assert small["tasks"] == large["tasks"]
    assert small["number_token_probability"] == pytest.approx(large["number_token_probability"], rel=1e-4)


def test_a_limited_evaluation_asks_the_first_questions_only(tiny: Any, suite_path: Path) -> None:
    found = evaluate(*tiny, load_suite(suite_path), progress=False, limit=2)
    assert [task["n"] for task in found["tasks"].values()] == [2, 2, 2, 2]


def test_a_suite_of_numbers_alone_has_no_number_token_probability(tiny: Any, suite_path: Path) -> None:
    suite = load_suite(suite_path)
    numbers = type(suite)(name="numbers", path=suite_path, tasks=(suite.tasks[0], suite.tasks[3]))
    assert evaluate(*tiny, numbers, progress=False, limit=1)["number_token_probability"] is None


def test_an_evaluation_comes_back_from_its_file_and_leaves_no_other(tiny: Any, suite_path: Path, tmp_path: Path) -> None:
    found = evaluate(*tiny, load_suite(suite_path), progress=False, limit=1)
    path = save(found, tmp_path / "deep" / "folder")
    assert load(path) == load(path.parent) == json.loads(json.dumps(found))
    assert [file.name for file in path.parent.iterdir()] == ["evaluation.json"]


def test_a_missing_or_foreign_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="perennial evaluate"):
        load(tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match="no evaluation"):
        load(tmp_path)
