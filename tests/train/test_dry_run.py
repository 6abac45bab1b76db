"""A dry run says beforehand what a run then writes down."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.cli import main
from train.config import make_recipe
from train.run import train
from train.trainer import arguments

WEIGHTS = "model.safetensors"


@pytest.fixture
def data(tmp_path: Path, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path / "data", with_images=9, text_only=0)


@pytest.fixture
def values(tiny_folder: Path, data: Path, tmp_path: Path, make_data: Callable[..., Path]) -> dict[str, Any]:
    text = make_data(tmp_path / "text", with_images=0, text_only=13)
    return {
        "model": {"base": str(tiny_folder), "preset": "sa_proj+projector"},
        "data": {"sources": [{"path": str(data)}, {"path": str(text), "weight": 2.0}], "text_share": 0.4},
        "train": {"learning_rate": 1e-3, "batch_size": 4, "epochs": 2.0, "warmup_share": 0.2, "weight_decay": 0.1}
        | {"parts": {"projector": {"learning_rate": 1e-4}}},
        "output": str(tmp_path / "run"),
    }


@pytest.fixture
def reckon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Calls the command with a recipe of these values; gives its JSON."""

    def reckon(values: dict[str, Any], *words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["train", str(write(tmp_path, values)), "--dry-run", "--json", *words]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return reckon


Reckon = Callable[..., dict[str, Any]]


def write(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("packing", [None, {"length": 96}])
def test_steps_epochs_tokens_and_what_trains_are_those_of_the_run(values: dict[str, Any], reckon: Reckon, packing: dict[str, int]) -> None:
    values["data"]["packing"] = packing
    found = reckon(values)
    folder = train(make_recipe(values), progress=False).folder
    record, trainable = read(folder, "run.json"), read(folder, "trainable.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert found["schedule"]["steps"] == record["steps"] == len(lines)
    assert found["schedule"]["tokens"] == lines[-1]["tokens"]
    assert found["schedule"]["images_per_step"] == round(lines[-1]["images"] / len(lines), 2)
    assert [one["epochs"] for one in found["data"]["sources"]] == [one["epochs"] for one in record["data"]["sources"]]
    assert [one["samples"] for one in found["data"]["sources"]] == [one["samples"] for one in record["data"]["sources"]]
    assert found["trainable"]["sha256"] == trainable["sha256"]
    for part in found["trainable"]["parts"]:
        same = [
            one
            for one in trainable["tensors"]
            if (one["group"], one["learning_rate"], one["weight_decay"]) == (part["part"], part["learning_rate"], part["weight_decay"])
        ]
        assert (part["tensors"], part["parameters"]) == (len(same), sum(one["count"] for one in same))
    assert sum(part["tensors"] for part in found["trainable"]["parts"]) == len(trainable["tensors"])


def test_warm_up_and_micro_batches_are_the_trainers(values: dict[str, Any], reckon: Reckon, tmp_path: Path) -> None:
    found = reckon(values, "--train.micro_batch_size", "1", "--gpus", "2")["schedule"]
    assert (found["micro_batch_size"], found["accumulation"], found["gpus"]) == (1, 2, 2)
    recipe = make_recipe(values).train
    settings = arguments(recipe, steps=found["steps"], processes=1, deepspeed={}, folder=str(tmp_path))
    assert found["warmup_steps"] == settings.warmup_steps > 0


def test_disk_is_what_a_run_leaves(values: dict[str, Any], reckon: Reckon) -> None:
    values["model"]["preset"], values["train"]["parts"] = "sa_proj", {}
    values["train"] |= {"steps": 5, "save_every": 2, "checkpoints": "trainable", "save_dtype": "bf16"}
    found = reckon(values)["disk"]
    folder = train(make_recipe(values), progress=False).folder
    left = {path: path.stat().st_size for path in (folder / "checkpoints").glob("*/*.safetensors")}
    assert found["checkpoints"] == len(left) == 3
    assert found["checkpoint"] + 2 * found["on_the_way"] == pytest.approx(sum(left.values()), rel=0.1)  # headers of small files
    assert found["total"] == sum([found["checkpoint"], 2 * found["on_the_way"], 2 * found["state"]])
    assert found["state"] == 12 * read(folder, "run.json")["trainable"]["parameters"]


def test_disk_counts_what_is_kept_beside_what_is_being_written(values: dict[str, Any], reckon: Reckon) -> None:
    values["train"] |= {"steps": 20, "save_every": 2, "keep_checkpoints": 3, "keep_states": 1}
    found = reckon(values)["disk"]
    assert (found["checkpoints"], found["states"]) == (3 + 1, 1 + 1)
    assert found["total"] == 4 * found["checkpoint"] + 2 * found["state"]


def test_no_weights_are_read(values: dict[str, Any], reckon: Reckon, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "bare", ignore=shutil.ignore_patterns(WEIGHTS))
    full = reckon(values)
    values["model"]["base"] = str(tmp_path / "bare")
    bare = reckon(values)
    assert not (tmp_path / "bare" / WEIGHTS).exists()
    assert {name: bare[name] for name in ("trainable", "schedule", "memory")} == {
        name: full[name] for name in ("trainable", "schedule", "memory")
    }


def test_only_what_differs_from_the_defaults_is_shown_as_settings(values: dict[str, Any], reckon: Reckon) -> None:
    values["train"] |= {"seed": 0, "zero": "zero3"}
    found = reckon(values)
    assert found["settings"]["train"]["zero"] == "zero3"
    assert "seed" not in found["settings"]["train"]
    assert found["config"]["train"]["seed"] == 0


def test_hours_come_from_a_given_speed_alone(values: dict[str, Any], reckon: Reckon) -> None:
    assert "hours" not in reckon(values)["schedule"]
    found = reckon(values, "--tokens-per-second", "0.01")["schedule"]
    assert found["hours"] == round(found["tokens"] / 0.01 / 3600, 2) > 0


def test_a_missing_data_set_is_named_with_the_command_that_writes_it(values: dict[str, Any], reckon: Reckon) -> None:
    values["data"] = {"sources": [*values["data"]["sources"], {"path": "data_sets/cub/train.json"}]}
    found = reckon(values)
    assert found["data"]["sources"][2]["not_read"] == "not here yet: perennial prepare cub --output data_sets/cub"
    assert found["data"]["sources"][0]["samples"] == 9
    assert found["schedule"]["steps"] is None
    assert found["disk"]["total"] is not None
    values["train"]["steps"] = 7
    assert reckon(values)["schedule"]["steps"] == 7


def test_records_are_counted_where_the_tokenizer_is_not_here(values: dict[str, Any], data: Path, reckon: Reckon) -> None:
    values["model"] = {"base": "llava-hf/llava-1.5-7b-hf", "preset": "sa_proj"}
    values["data"] = {"sources": [{"path": str(data)}]}
    found = reckon(values)
    assert found["data"]["sources"][0]["records"] == 9
    assert found["data"]["sources"][0]["not_read"] == "the model's tokenizer is not here"
    assert (found["schedule"]["steps"], found["schedule"]["tokens"]) == (round(2 * 9 / 4), None)


def test_a_model_that_another_recipe_will_write_has_the_sizes_of_that_one(values: dict[str, Any], reckon: Reckon, tmp_path: Path) -> None:
    first = values | {"output": str(tmp_path / "first")}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first), encoding="utf-8")
    before = reckon(first)["model"]
    values["model"]["base"] = str(tmp_path / "first" / "checkpoints" / "step-9")
    found = reckon(values)["model"]
    assert found["parameters"] == before["parameters"]
    assert "is not here yet; sizes as" in found["notes"][0]
    assert "first.yaml makes it" in found["notes"][0]


@pytest.mark.parametrize(
    ("model", "losses", "zero", "share"),
    [
        ({"preset": "sa_proj"}, [{"kind": "lwf"}], "zero2", "trainable"),
        ({"preset": "sa_proj"}, [{"kind": "lwf"}, {"kind": "kl_to_base"}], "zero2", "trainable"),
        ({"preset": "sa_proj"}, [{"kind": "lwf"}], "zero3", "whole"),
        ({"preset": "sa_proj", "adapter": {"kind": "lora"}}, [{"kind": "lwf"}], "zero3", "nothing"),
        ({"preset": "sa_proj"}, [{"kind": "cross_entropy"}], "zero2", "nothing"),
    ],
)
def test_a_teacher_costs_what_distillation_keeps(
    values: dict[str, Any], reckon: Reckon, model: dict[str, Any], losses: list[dict[str, str]], zero: str, share: str
) -> None:
    values["model"] = {"base": values["model"]["base"]} | model
    values["train"] |= {"losses": losses, "zero": zero, "precision": "bf16"}
    values["train"].pop("parts")
    found = reckon(values)
    numbers = {"trainable": found["trainable"]["parameters"], "whole": found["model"]["parameters"], "nothing": 0}
    assert found["memory"]["teachers"] == 2 * numbers[share]
    assert found["memory"]["exact"] == sum(found["memory"]["gpu"].values()) + found["memory"]["teachers"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--train.stepps", "3"], "did you mean 'steps'"),
        (["--gpus", "3"], "train.batch_size 4 is not a multiple of"),
        (["--gpus", "0"], "--gpus: got 0"),
        (["--tokens-per-second", "-1"], "--tokens-per-second: got -1"),
        (["--model.base", "nobody/nothing"], "nobody/nothing is not here, and its sizes are not known"),
        (["--model.base", "gone/for/good"], "gone/for/good is not here, and its sizes are not known"),
        (["--model.preset", "sa_proj[9:]"], "holds no layer"),
        (["--train.losses", "[{kind: lwf, teacher: nobody/nothing}]"], "train.losses: teacher: nobody/nothing is not here"),
    ],
)
def test_a_wrong_request_is_refused(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["train", str(write(tmp_path, values)), "--dry-run", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_template_is_a_wrong_request(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values["model"] = {"vision": "openai/clip-vit-large-patch14-336", "language": "lmsys/vicuna-7b-v1.5", "chat_template": "gone.jinja"}
    assert main(["train", str(write(tmp_path, values)), "--dry-run"]) == 2
    assert "model.chat_template: gone.jinja does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--gpus", "2"], ["--json"], ["--tokens-per-second", "5"]])
def test_an_option_without_effect_is_refused(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["train", str(write(tmp_path, values)), *words]) == 2
    assert f"{words[0]} has no effect without --dry-run" in capsys.readouterr().err


def test_the_text_labels_what_is_estimated(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(write(tmp_path, values)), "--dry-run", "--tokens-per-second", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.strip().split("  ")[0] for line in lines}
    assert {"activations, estimated", "with activations, estimated", "weights", "together", "steps", "hours at 100 tokens/s"} <= told
    assert any(line.split()[:2] == ["projector", "2"] for line in lines)
    assert not (tmp_path / "run").exists()
