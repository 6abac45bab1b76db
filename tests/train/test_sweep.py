"""Sweeps of a knob: what is asked, what is chosen, what goes on where it was stopped."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from skills import write_suite

from train.evaluate.evaluation import group_means
from train.evaluate.tasks import Suite, load_suite
from train.points import Line
from train.sweep import Sweep, choose, markdown, run_sweep, sentence


def made_up(suite: Suite, right: Mapping[str, int]) -> dict[str, Any]:
    """An evaluation with so many right answers of each task."""
    tasks = {}
    for task in suite.tasks:
        answers = [{"id": one.conversation.id, "correct": at < right[task.name]} for at, one in enumerate(task.questions)]
        tasks[task.name] = {"group": task.group, "accuracy": right[task.name] / len(answers), "answers": answers}
    return {"tasks": tasks, "groups": group_means(tasks), "number_token_probability": 0.01, "seconds": 1.0}


class World:
    """A made-up line: a point's one file holds its value; the tuned model counts, but has forgotten."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.written = folder, [], []
        self.suite = write_suite(folder / "suite")
        for name, value in (("base", 0.0), ("tuned", 1.0)):
            self.point(value, folder / name)

    def point(self, value: float, output: Path) -> Path:
        output.mkdir(parents=True)
        save_file({"value": torch.tensor([value])}, output / "model.safetensors")
        return output

    def write(self, value: float, output: Path) -> Path:
        self.written.append(value)
        return self.point(value, output)

    def evaluate(self, model: Path, suite: Suite) -> dict[str, Any]:
        value = round(float(load_file(model / "model.safetensors")["value"]), 3)
        self.asked.append(value)
        return made_up(suite, {"counting": round(8 * value), "facts": 10 - round(4 * value**2), "colour": 10 - round(6 * value**2)})

    def line(self, **ends: str) -> Line:
        return Line(
            base=self.folder / "base", tuned=self.folder / "tuned", write=self.write, ends={float(at[1:]): end for at, end in ends.items()}
        )

    def sweep(self, **changes: Any) -> Sweep:
        values: dict[str, Any] = {
            "command": "wise-ft",
            "knob": "alpha",
            "values": (0.25, 0.5, 0.75),
            "settings": {},
            "folder": self.folder / "out",
            "suites": {"suite": load_suite(self.suite)},
            "target": "counting",
            "rule": 15.0,
            "limit": None,
            "keep": False,
        }
        return Sweep(**(values | changes))

    def run(self, ends: Mapping[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        return run_sweep(self.sweep(**changes), self.line(**(ends or {})), self.evaluate, progress=False)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("train.sweep_figures.draw", lambda _, path: path.write_text("drawn"))  # slow, as is the next
    monkeypatch.setattr("train.sweep.gc.collect", lambda: 0)
    return World(tmp_path)


def test_a_sweep_evaluates_base_tuned_model_and_every_value_once(world: World) -> None:
    found = world.run()
    assert sorted(world.asked) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [one["name"] for one in found["points"]] == ["base", "alpha-0.25", "alpha-0.5", "alpha-0.75", "tuned"]


def test_the_numbers_are_changes_against_the_base(world: World) -> None:
    half = world.run()["points"][2]
    assert half["target"] == pytest.approx(0.4)
    assert (half["held_out_text"], half["held_out_visual"], half["retention"]) == pytest.approx((-0.1, -0.2, -0.15))


def test_results_lie_beside_each_other_and_no_model_stays(world: World) -> None:
    world.run()
    assert {path.name for path in (world.folder / "out").iterdir()} == {"points", "sweep.json", "sweep.md", "sweep.png"}
    assert [path.name for path in (world.folder / "out" / "points" / "alpha-0.5").iterdir()] == ["evaluation.json"]


def test_models_stay_where_they_are_to(world: World) -> None:
    world.run(keep=True)
    assert (world.folder / "out" / "points" / "alpha-0.5" / "model" / "model.safetensors").is_file()


def test_a_model_that_is_wanted_later_is_written_without_asking_again(world: World) -> None:
    world.run()
    world.asked.clear()
    world.run(keep=True)
    assert not world.asked
    assert (world.folder / "out" / "points" / "alpha-0.5" / "model" / "model.safetensors").is_file()


def test_a_sweep_that_was_killed_goes_on_without_asking_again(world: World) -> None:
    evaluate = world.evaluate

    def killed(model: Path, suite: Suite) -> dict[str, Any]:
        if world.asked == [0.0, 1.0, 0.25]:
            raise KeyboardInterrupt
        return evaluate(model, suite)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(world.sweep(), world.line(), killed, progress=False)
    world.asked.clear()
    assert world.run()["best"] == 0.5
    assert world.asked == [0.5, 0.75]


def test_what_is_finished_is_neither_written_nor_asked_again(world: World) -> None:
    first = world.run()
    world.asked.clear()
    world.written.clear()
    assert world.run() == first
    assert not world.asked and not world.written


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("suite", [0.0, 1.0, 0.25, 0.5, 0.75]),
        ("tuned", [2.0, 0.25, 0.5, 0.75]),
        ("base", [0.001, 0.25, 0.5, 0.75]),
        ("limit", [0.0, 1.0, 0.25, 0.5, 0.75]),
        ("settings", [0.25, 0.5, 0.75]),
        ("value", [0.6]),
    ],
)
def test_what_has_changed_is_asked_again(world: World, change: str, again: list[float]) -> None:
    world.run()
    world.asked.clear()
    changes: dict[str, Any] = {}
    if change == "suite":
        write_suite(world.suite.parent, "Three.")
    elif change in ("base", "tuned"):
        shutil.rmtree(world.folder / change)
        world.point({"base": 0.001, "tuned": 2.0}[change], world.folder / change)
    else:
        changes = {"limit": {"limit": 10}, "settings": {"settings": {"last": 0.5}}, "value": {"values": (0.5, 0.6)}}[change]
    try:
        world.run(**changes)
    finally:
        assert world.asked == again


def test_a_value_that_is_an_end_is_not_asked_twice(world: World) -> None:
    found = world.run({"_0": "base", "_1": "tuned"}, values=(0.0, 0.5, 1.0))
    assert world.asked == [0.0, 1.0, 0.5]
    assert found["points"][1]["target"] == found["points"][0]["target"] == 0
    assert (world.folder / "out" / found["points"][3]["evaluation"]).is_file()


def test_another_suite_may_choose(world: World) -> None:
    dev = write_suite(world.folder / "dev")
    chosen = world.run(suites={"suite": load_suite(world.suite), "dev": load_suite(dev)})
    assert len(world.asked) == 10
    assert chosen["chosen_on"] == "dev" and chosen["dev_suite"] == "dev"
    assert "flatters" not in chosen["sentence"]
    assert (world.folder / "out" / "points" / "alpha-0.5" / "dev" / "evaluation.json").is_file()


@pytest.mark.parametrize("part", ["suite", "dev"])
def test_the_suite_that_chooses_is_the_other_one_where_there_is_one(world: World, part: str) -> None:
    """On one of the two suites everything is forgotten at once."""
    suites = {"suite": load_suite(world.suite), "dev": load_suite(write_suite(world.folder / "dev"))}
    evaluate = world.evaluate

    def strict(model: Path, suite: Suite) -> dict[str, Any]:
        found = evaluate(model, suite)
        lost = model.parent.name.startswith("alpha") and suite.path == suites[part].path
        return made_up(suite, {"counting": 9, "facts": 0, "colour": 0}) if lost else found

    found = run_sweep(world.sweep(suites=suites), world.line(), strict, progress=False)
    assert (found["best"] is None) is (part == "dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "countng"}, r"target: .*suite.yaml has no task 'countng'; its tasks: counting, facts, colour"),
        ({"suites": "without target", "target": None}, "has no task of group target; name the task that was tuned for with --target"),
        ({"suites": "without held-out"}, "has no held-out task, so nothing tells what was lost"),
    ],
)
def test_a_suite_that_cannot_tell_is_refused_before_anything_is_asked(world: World, change: dict[str, Any], message: str) -> None:
    if "suites" in change:
        whole = yaml.safe_load(world.suite.read_text())["tasks"]
        kept = whole[1:] if change["suites"] == "without target" else whole[:1]
        world.suite.write_text(yaml.safe_dump({"tasks": kept}))
        change = {**change, "suites": {"suite": load_suite(world.suite)}}
    with pytest.raises(ValueError, match=message):
        world.run(**change)
    assert not world.asked


# --- what is chosen --------------------------------------------------------------------------------------------------


def point(value: float | None, target: float, retention: float) -> dict[str, Any]:
    return {"name": "base", "value": value, "target": target, "retention": retention}


def test_the_rule_takes_the_highest_target_among_those_that_lose_little_enough() -> None:
    found = [point(None, 0.0, 0.0), point(0.25, 0.3, 0.0), point(0.5, 0.5, 0.79 - 0.8), point(0.75, 0.7, -0.011), point(1.0, 0.9, -0.5)]
    best = choose(found, 1.0)
    assert best is not None and best["value"] == 0.5


def test_of_equal_targets_the_rule_takes_what_loses_least() -> None:
    best = choose([point(0.25, 0.5, -0.009), point(0.5, 0.5, -0.002), point(0.75, 0.5, -0.004)], 1.0)
    assert best is not None and best["value"] == 0.5


def test_the_rule_never_takes_the_base_or_the_tuned_model_for_a_value() -> None:
    assert choose([point(None, 1.0, 0.0), point(0.5, 0.5, -0.2)], 1.0) is None


def test_a_sentence_names_the_chosen_value_with_what_it_comes_to(world: World) -> None:
    assert world.run()["sentence"] == (
        "Of 3 values, alpha 0.5 is the best that loses at most 15 points of retention: counting goes from 0.0 to 40.0 %, retention changes "
        "by −15.0 points (tuned model: 80.0 %, −50.0 points); chosen on the suite it is reported on, which flatters it."
    )


def test_a_sentence_says_so_when_no_value_keeps_enough(world: World) -> None:
    found = world.run(values=(0.5, 0.75), rule=1.0)
    assert found["best"] is None
    assert found["sentence"] == sentence(found) == "No alpha loses at most 1 point of retention; 0.5 loses least (−15.0 points)."


def test_the_table_marks_the_chosen_value(world: World) -> None:
    lines = markdown(world.run()).splitlines()
    assert lines[0] == "| alpha | counting, % | text, points | images, points | retention, points | number tokens, % |"
    assert [line.split(" | ")[0] for line in lines[2:7]] == ["| base", "| 0.25", "| **0.5**", "| 0.75", "| tuned"]


def test_the_figure_has_a_label_for_every_value_with_both_ends(world: World) -> None:
    from train.sweep_figures import figure

    (panel,) = figure(world.run()).axes
    assert [text.get_text() for text in panel.texts] and {text.get_text() for text in panel.texts} == {"0.25", "0.5", "0.75"}
    assert {"base", "tuned", "chosen"} <= {one.get_label() for one in panel.collections}
