"""What a sequence is going to do: plans, refusals, replay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skills import TASKS, make_world, tasks_of, two_tasks

from data.dataset import load_sources
from data.pictures import pictures_of
from model.build import load_pair
from train.config import Recipe, make_recipe
from train.sequence import run_sequence
from train.sequence_plan import data_of, plan_lines, ready


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), make_data)


@pytest.fixture
def values(world: Path, tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return two_tasks(world, tiny_folder, tmp_path / "out")


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
        run_sequence(make_recipe(values), progress=False)
    assert not Path(values["output"]).exists()


def test_the_data_of_all_tasks_is_read_before_the_first_begins(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"conversations": []}]')
    values["sequence"]["tasks"][1]["data"]["sources"][0]["path"] = str(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"sequence task green: .*bad\.json: no record is left to train on"):
        run_sequence(make_recipe(values), progress=False)
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


@pytest.mark.parametrize(("memory", "drawn"), [(3, 3), (100, 5)])
def test_a_memory_is_drawn_from_what_the_former_task_saw(values: dict[str, Any], memory: int, drawn: int) -> None:
    values["sequence"]["tasks"][0]["data"]["sources"] += [values["sequence"]["tasks"][1]["data"]["sources"][0] | {"max_records": 5}]
    values["sequence"]["tasks"][0]["data"]["sources"].reverse()
    values["sequence"]["tasks"][0]["data"]["sources"][1]["max_records"] = 5
    sequence = with_replay(values, memory=2 * memory).sequence
    assert sequence is not None
    _, processor = load_pair(values["model"]["base"])
    seen, later = (
        load_sources(data_of(sequence, tasks), processor.tokenizer, pictures_of(processor), seed=7) for tasks in (TASKS[:1], TASKS[:2])
    )
    for before, remembered in zip(seen, later[:2], strict=True):
        assert len(remembered) == drawn
        assert set(remembered.rows) <= set(before.rows)


def test_a_siamese_model_is_not_handed_on(values: dict[str, Any]) -> None:
    values["model"] |= {"preset": "llm_blocks", "adapter": {"kind": "lora"}, "method": "siamese"}
    with pytest.raises(ValueError, match=r"model\.method: a sequence hands plain models on; leave siamese out"):
        plan_lines(make_recipe(values), "recipe")


@pytest.mark.parametrize("change", [{"max_length": 256}, {"over_long": "split"}], ids=["shorter", "split"])
def test_a_memory_whose_samples_were_of_other_lengths_is_refused(values: dict[str, Any], change: dict[str, Any]) -> None:
    values["sequence"]["tasks"][0]["data"] |= change
    with pytest.raises(ValueError, match=r"replay\.memory: samples of task 'green' have up to 512 tokens, .* of 'red' up to"):
        plan_lines(with_replay(values, memory=5), check_files=False)


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
