"""Skill after skill: plans, hand-over, replay, merging, going on, numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import train.sequence as module
from data.dataset import load_sources
from data.pictures import pictures_of
from model.build import load_pair
from train.cli import main
from train.config import Recipe, make_recipe
from train.evaluate.tasks import Suite
from train.sequence import SequenceResult, run_sequence
from train.sequence_matrix import matrix, measures
from train.sequence_plan import data_of, plan_lines, ready, stages_of
from train.sequence_record import Kept, changes
from train.sequence_report import render, rows, sentence, table

TASKS = ("red", "green", "blue")


def words(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}]} for ask, answer in pairs]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    """A folder with the data of three tasks beside a suite that measures them."""
    folder = tmp_path_factory.mktemp("world")
    tasks = []
    for number, name in enumerate((*TASKS, "facts", "colour")):
        if name in TASKS:
            make_data(folder / name, with_images=4, text_only=4 + number)
        (folder / f"{name}.json").write_text(json.dumps(words((f"What is {name}?", f"It is {number}."), ("And two?", "Two."))))
        group = {"facts": "held_out_text", "colour": "held_out_visual"}.get(name, "target")
        tasks.append({"name": name, "group": group, "path": f"{name}.json", "score": "exact"})
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder


@pytest.fixture
def values(world: Path, tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe of two tasks, without a suite."""
    return {
        "model": {"base": str(tiny_folder), "preset": "sa_proj"},
        "train": {"learning_rate": 1e-2, "batch_size": 4, "steps": 3, "save_every": 1},
        "sequence": {"tasks": tasks_of(world, TASKS[:2])},
        "output": str(tmp_path / "out"),
    }


def tasks_of(world: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "data": {"sources": [{"path": str(world / name / "records.json")}], "max_length": 512}} for name in names]


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


# --- the plan --------------------------------------------------------------------------------------------------------


WRONG = [
    ({"orders": [["red", "gren"]]}, r"order 1 names 'gren'; did you mean 'green'\? The tasks are red, green"),
    ({"orders": [["red"]]}, "order 1 lacks green; every order holds every task once"),
    ({"orders": [["red", "green"], ["red", "green"]]}, "red → green is there more than once"),
    ({"orders": [["red", "red", "green"]]}, "order 1: red is there more than once"),
    ({"seeds": [1, 1]}, "seeds: 1 is there more than once"),
    ({"taks": []}, r"sequence\.taks: unknown key; did you mean 'tasks'\?"),
    ({"merge": {"kind": "wise_ft", "alpha": 2}}, r"sequence\.merge\.alpha: got 2"),
    ({"merge": {"kind": "wise"}}, "did you mean 'wise_ft'"),
    ({"replay": {"trees": {"path": "nowhere", "share": 0.1}}}, r"replay\.trees\.path: nowhere does not exist"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_wrong_section_is_told_in_one_message(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    values["sequence"] |= change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan_lines(make_recipe(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"learning_rat": 1}}, r"sequence\.tasks\.1 \(green\): train\.learning_rat: unknown key; did you mean 'learning_rate'"),
        ({"train": {"seed": 1}}, r"seed is one for all tasks of a sequence; give sequence\.seeds"),
        ({"name": "red"}, "tasks: red is there more than once"),
        ({"name": "../red"}, r"sequence\.tasks\.1\.name: got '\.\./red'"),
        (
            {"data": {"sources": [{"path": "missing.json"}]}},
            r"sequence\.tasks\.1 \(green\): data\.sources\.0\.path: missing\.json does not exist",
        ),
    ],
    ids=["train", "seed", "twin", "name", "file"],
)
def test_a_wrong_task_is_told_by_name(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    values["sequence"]["tasks"][1] |= change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan_lines(make_recipe(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"sources": [{"path": "README.md"}]}}, "data: has no effect in a sequence"),
        ({"model": {"vision": "a/b", "language": "c/d"}}, r"model\.base: missing; a sequence begins with a saved model"),
        ({"train": {"resume": "always"}}, r"train\.resume: always fits a single run"),
        ({"sequence": None}, "sequence: missing in the recipe"),
    ],
    ids=["data", "assembly", "resume", "missing"],
)
def test_what_fits_no_sequence_is_refused(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_lines(make_recipe(values | change, check_files=False), check_files=False)


def test_a_task_that_no_suite_measures_is_refused_before_anything_runs(values: dict[str, Any], world: Path) -> None:
    values["sequence"] |= {"suite": str(world / "suite.yaml")}
    values["sequence"]["tasks"][0]["name"] = "reds"
    with pytest.raises(ValueError, match=r"'reds' is no task of the group target in .*suite\.yaml; did you mean 'red'\?"):
        run(values)
    assert not Path(values["output"]).exists()


def test_the_data_of_all_tasks_is_read_before_the_first_begins(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"conversations": []}]')
    values["sequence"]["tasks"][1]["data"]["sources"][0]["path"] = str(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"sequence task green: .*bad\.json: no record is left to train on"):
        run(values)
    assert not Path(values["output"]).exists()


def test_fields_of_a_task_replace_those_of_the_recipe(values: dict[str, Any]) -> None:
    values["sequence"]["tasks"][1]["train"] = {"learning_rate": 1e-3}
    rates = [stage.recipe.train.learning_rate for stage in plan_lines(make_recipe(values))[0].stages]
    assert rates == [1e-2, 1e-3]


def test_every_order_is_planned_with_every_seed(values: dict[str, Any]) -> None:
    values["sequence"] |= {"orders": [["red", "green"], ["green", "red"]], "seeds": [3, 4]}
    lines = plan_lines(make_recipe(values))
    assert [(line.order, line.seed) for line in lines] == [(1, 3), (2, 3), (1, 4), (2, 4)]
    assert [stage.recipe.train.seed for line in lines for stage in line.stages] == [3, 3, 3, 3, 4, 4, 4, 4]
    assert str(lines[1].stages[1].folder) == f"{values['output']}/order-2-seed-3/02-red"


def test_kl_to_the_base_means_the_first_model_and_lwf_the_one_before(values: dict[str, Any]) -> None:
    values["train"]["losses"] = [{"kind": "cross_entropy"}, {"kind": "kl_to_base"}, {"kind": "lwf"}]
    first, second = plan_lines(make_recipe(values))[0].stages
    base = Path(values["model"]["base"])
    teachers = [
        [term.teacher for term in ready(stage, before, base).train.losses] for stage, before in ((first, base), (second, Path("x")))
    ]
    assert teachers == [[None, None, None], [None, str(base), None]]


# --- replay ----------------------------------------------------------------------------------------------------------


def with_replay(values: dict[str, Any], **replay: Any) -> Recipe:
    values["sequence"]["replay"] = replay
    return make_recipe(values, check_files=False)


def test_memory_adds_so_many_records_of_each_former_task(values: dict[str, Any], world: Path) -> None:
    values["sequence"]["tasks"] = tasks_of(world, TASKS)
    values["sequence"]["tasks"][0]["data"]["sources"] *= 2
    sequence = with_replay(values, memory=5).sequence
    assert sequence is not None
    found = [(Path(one.path).parent.name, one.max_records) for one in data_of(sequence, TASKS).sources]
    assert found == [("red", 3), ("red", 2), ("green", 5), ("blue", None)]


def test_the_same_records_are_remembered_at_every_later_task(values: dict[str, Any], world: Path) -> None:
    values["sequence"]["tasks"] = tasks_of(world, TASKS)
    sequence = with_replay(values, memory=3).sequence
    assert sequence is not None
    _, processor = load_pair(values["model"]["base"])
    remembered = []
    for tasks in (TASKS[:2], TASKS):
        sources = load_sources(data_of(sequence, tasks), processor.tokenizer, pictures_of(processor), seed=7)
        remembered.append(sources[0].rows)
    assert len(remembered[0]) == 3
    assert np.array_equal(*remembered)


def test_trees_take_their_share_from_all_others(values: dict[str, Any], world: Path) -> None:
    path = str(world / "red" / "records.json")
    values["sequence"]["tasks"][0]["data"]["sources"] = [{"path": path, "share": 0.5}, {"path": path, "share": 0.5}]
    sequence = with_replay(values, trees={"path": "trees", "share": 0.2}).sequence
    assert sequence is not None
    *own, trees = data_of(sequence, ("red",)).sources
    assert [one.share for one in own] == [0.4, 0.4]
    assert (trees.path, trees.format, trees.share, trees.loss_on) == ("trees", "tree", 0.2, "all")


def test_memory_beside_shares_alone_is_refused(values: dict[str, Any]) -> None:
    values["sequence"]["tasks"][1]["data"]["sources"][0]["share"] = 1.0
    with pytest.raises(ValueError, match=r"replay\.memory: every source of task 'green' has a share"):
        plan_lines(with_replay(values, memory=5), check_files=False)


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


# --- numbers ---------------------------------------------------------------------------------------------------------

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
