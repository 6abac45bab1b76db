"""Skill after skill: hand-over, merging, going on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from skills import TASKS, make_world, tasks_of, two_tasks

import train.sequence as module
from train.cli import main
from train.config import make_recipe
from train.evaluate.tasks import Suite
from train.sequence import SequenceResult, run_sequence
from train.sequence_plan import plan_lines, stages_of
from train.sequence_record import Kept, changes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), make_data)


@pytest.fixture
def values(world: Path, tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return two_tasks(world, tiny_folder, tmp_path / "out")


def made_up(folder: Path, suite: Suite) -> dict[str, Any]:
    """An evaluation that depends on the weights alone."""
    weight = load_file(folder / "model.safetensors")["language_model.model.layers.0.self_attn.q_proj.weight"].float()
    spread = [float(weight[at].abs().mean()) % 1 for at in range(len(suite.tasks))]
    tasks = {task.name: {"group": task.group, "accuracy": value} for task, value in zip(suite.tasks, spread, strict=True)}
    return {"tasks": tasks, "groups": {}, "number_token_probability": 0.5, "seconds": 1.0}


def run(values: dict[str, Any], **options: Any) -> SequenceResult:
    return run_sequence(make_recipe(values), progress=False, **({"evaluate": made_up} | options))


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("called again")


def break_at(task: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the run of a task be interrupted in a step."""
    from train.trainer import MixtureTrainer

    original = MixtureTrainer.compute_loss

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if task in self.args.output_dir and self.state.global_step == step - 1:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(MixtureTrainer, "compute_loss", failing)


@pytest.fixture(scope="module")
def whole(world: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], SequenceResult, list[Path]]:
    """Three tasks in two orders that begin alike: recipe, result, folders in the order of their evaluation."""
    evaluated = []

    def evaluate(folder: Path, suite: Suite) -> dict[str, Any]:
        evaluated.append(folder)
        return made_up(folder, suite)

    values = {
        "model": {"base": str(tiny_folder), "preset": "sa_proj"},
        "train": {"learning_rate": 1e-2, "batch_size": 4, "steps": 2},
        "sequence": {
            "tasks": tasks_of(world, TASKS),
            "orders": [["red", "green", "blue"], ["red", "blue", "green"]],
            "suite": str(world / "suite.yaml"),
            "merge": {"kind": "wise_ft", "alpha": 0.5},
        },
        "output": str(tmp_path_factory.mktemp("whole") / "out"),
    }
    return values, run(values, evaluate=evaluate), evaluated


# --- hand-over -------------------------------------------------------------------------------------------------------


def test_each_task_begins_with_what_the_one_before_hands_over(whole: tuple[Any, SequenceResult, Any]) -> None:
    values, result, _ = whole
    line = result.folder / "order-2-seed-0"
    bases = [config_of(line / name)["model"]["base"] for name in ("01-red", "02-blue", "03-green")]
    handed = [result.folder / "order-1-seed-0" / "01-red" / "merged-0.5", line / "02-blue" / "merged-0.5"]
    assert bases == [values["model"]["base"], *map(str, handed)]
    assert result.models[2, 0] == line / "03-green" / "merged-0.5"


def test_a_merged_model_lies_between_its_task_and_the_model_before(whole: tuple[Any, SequenceResult, Any]) -> None:
    _, result, _ = whole
    first, second = (result.folder / "order-1-seed-0" / name for name in ("01-red", "02-green"))
    before, after, merged = (weights(one) for one in (first / "merged-0.5", second / "checkpoints" / "step-2", second / "merged-0.5"))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == 8
    assert all(torch.allclose(merged[name], (before[name] + after[name]) / 2, atol=1e-6) for name in moved)
    assert all(torch.equal(merged[name], before[name]) for name in before if name not in moved)


def test_a_base_that_no_checkpoint_could_be_merged_with_is_refused_before_anything_runs(values: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "older"
    shutil.copytree(values["model"]["base"], base)
    save_file(weights(base) | {"vision_tower.embeddings.position_ids": torch.arange(16)[None]}, base / "model.safetensors")
    values["model"]["base"], values["sequence"]["merge"] = str(base), {"kind": "wise_ft"}
    with pytest.raises(ValueError, match="older: .* could not be interpolated: vision_tower.embeddings.position_ids would be lost"):
        run(values)
    assert not Path(values["output"]).exists()


def test_orders_that_begin_alike_share_their_runs(whole: tuple[Any, SequenceResult, list[Path]]) -> None:
    _, result, evaluated = whole
    shared = result.folder / "order-2-seed-0" / "01-red"
    assert shared.is_symlink()
    assert shared.resolve() == (result.folder / "order-1-seed-0" / "01-red").resolve()
    assert len(evaluated) == len(set(evaluated)) == 6  # the base, five runs


def test_a_second_call_does_nothing_again(whole: tuple[Any, SequenceResult, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    values, result, _ = whole
    before = json.loads((result.folder / "matrix.json").read_text())
    monkeypatch.setattr(module, "train", refuse)
    monkeypatch.setattr(module, "interpolate", refuse)
    again = run(values, evaluate=refuse)
    assert again.models == result.models
    assert json.loads((result.folder / "matrix.json").read_text()) == before


def test_adapters_hand_over_a_whole_model(values: dict[str, Any]) -> None:
    values["model"]["adapter"] = {"kind": "lora", "rank": 2}
    values["train"]["steps"] = 1
    result = run(values)
    first = result.folder / "order-1-seed-0" / "01-red" / "checkpoints" / "step-1"
    assert config_of(result.folder / "order-1-seed-0" / "02-green")["model"]["base"] == str(first)
    assert weights(first).keys() == weights(Path(values["model"]["base"])).keys()
    assert not same(first, Path(values["model"]["base"]))


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_stopped_sequence_goes_on_at_the_task_and_the_step(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        break_at("green", 3, patch)
        with pytest.raises(KeyboardInterrupt):
            run(values)
    first = Path(values["output"]) / "order-1-seed-0" / "01-red" / "run.json"
    written = first.stat().st_mtime_ns
    result = run(values)
    assert first.stat().st_mtime_ns == written
    assert json.loads((result.folder / "order-1-seed-0" / "02-green" / "run.json").read_text())["resumed_from"] == 2
    unbroken = run(values | {"output": str(tmp_path / "unbroken")})
    assert same(result.models[1, 0], unbroken.models[1, 0])


def test_ctrl_c_ends_with_75_and_says_how_to_go_on(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    break_at("red", 1, monkeypatch)
    assert main(["sequence", str(tmp_path / "recipe.yaml")]) == 75
    assert "the same command goes on" in capsys.readouterr().err


def test_a_request_to_stop_between_tasks_is_heard(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.preempt, "asked", lambda: True)
    monkeypatch.setattr(module, "train", refuse)
    with pytest.raises(module.preempt.Stopped, match="before order 1, seed 0, task red"):
        run(values)


def test_a_request_to_stop_during_an_evaluation_is_heard_behind_it(
    values: dict[str, Any], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["sequence"]["suite"] = str(world / "suite.yaml")
    asked: list[Path] = []
    monkeypatch.setattr(module.preempt, "asked", lambda: bool(asked))
    monkeypatch.setattr(module, "train", refuse)
    with pytest.raises(module.preempt.Stopped, match="before order 1, seed 0, task red"):
        run(values, evaluate=lambda folder, suite: asked.append(folder) or made_up(folder, suite))
    assert (Path(values["output"]) / "base" / "evaluation.json").is_file()


def test_a_request_to_stop_during_a_merge_is_heard_before_the_evaluation(
    whole: tuple[Any, SequenceResult, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, result, _ = whole
    shutil.rmtree(result.folder / "order-2-seed-0" / "02-blue" / "merged-0.5")
    asked: list[Path] = []
    merge = module.interpolate
    monkeypatch.setattr(module, "interpolate", lambda *arguments: asked.append(merge(*arguments)))
    monkeypatch.setattr(module.preempt, "asked", lambda: bool(asked))
    with pytest.raises(module.preempt.Stopped, match="before the evaluation of order 2, seed 0, task blue"):
        run(values, evaluate=refuse)


def test_an_interrupted_evaluation_is_made_up_for_without_training_again(
    whole: tuple[Any, SequenceResult, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, result, _ = whole
    (result.folder / "order-2-seed-0" / "02-blue" / "evaluations" / result_suite(values) / "evaluation.json").unlink()
    monkeypatch.setattr(module, "train", refuse)
    evaluated = []
    run(values, evaluate=lambda folder, suite: evaluated.append(folder) or made_up(folder, suite))
    assert evaluated == [result.folder / "order-2-seed-0" / "02-blue" / "merged-0.5"]


def result_suite(values: dict[str, Any]) -> str:
    return Path(values["sequence"]["suite"]).parent.name


@pytest.fixture
def planned(values: dict[str, Any]) -> Callable[..., Kept]:
    """The records of a recipe with changes."""

    def make(steps: int = 3) -> Kept:
        values["sequence"]["tasks"][0]["train"] = {"steps": steps}
        return Kept(stages_of(plan_lines(make_recipe(values))), "base", None)

    return make


def write_all(kept: Kept, values: dict[str, Any]) -> None:
    for stage in plan_lines(make_recipe(values))[0].stages:
        stage.folder.mkdir(parents=True)
        kept.write(stage)


def test_other_settings_are_refused_with_what_changed(values: dict[str, Any], planned: Callable[..., Kept]) -> None:
    write_all(planned(), values)
    first, second = planned(steps=4).check(plan_lines(make_recipe(values)), overwrite=False)
    assert "01-red was begun with other settings: train.steps was 3, is 4" in first
    assert "02-green was begun with other settings: what stands before it is another" in second


def test_overwriting_removes_what_has_other_settings_alone(values: dict[str, Any], planned: Callable[..., Kept]) -> None:
    write_all(planned(), values)
    values["sequence"]["tasks"][1]["train"] = {"steps": 4}
    assert planned().check(plan_lines(make_recipe(values)), overwrite=True) == []
    left = sorted(path.name for path in (Path(values["output"]) / "order-1-seed-0").iterdir())
    assert left == ["01-red", "01-red.json"]


def test_settings_without_effect_may_change(values: dict[str, Any], planned: Callable[..., Kept]) -> None:
    write_all(planned(), values)
    values["train"] |= {"save_every": 2, "keep_checkpoints": 1}
    assert planned().check(plan_lines(make_recipe(values)), overwrite=False) == []


def test_a_changed_file_is_told_by_name() -> None:
    assert changes({"files": {"a.json": ["1"]}}, {"files": {"a.json": ["2"]}}) == ["the content of a.json"]


def test_the_matrix_of_a_run_holds_each_stages_scores(whole: tuple[Any, SequenceResult, Any]) -> None:
    _, result, _ = whole
    assert result.matrix is not None
    assert result.page is not None
    found = json.loads(result.matrix.read_text())
    assert found["base"]["scores"].keys() == {*TASKS, "facts", "colour"}
    assert [[stage["task"] for stage in one["stages"]] for one in found["sequences"]] == [
        ["red", "green", "blue"],
        ["red", "blue", "green"],
    ]
    assert (result.folder / found["sequences"][1]["stages"][0]["evaluation"]).is_file()
    assert "order-1-seed-0/01-red" in result.page.read_text()
