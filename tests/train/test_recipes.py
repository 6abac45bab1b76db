"""The recipes that ship: each says only what differs, what its method says, and can be reckoned without a network."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from model.original_processor import VICUNA
from train.cli import main
from train.config import RECIPES, Recipe, load_recipe

STAGES = ("align", "instruct", "skill", "pretrain_text")
FILES = sorted(RECIPES.glob("*.yaml"))
# Those of `perennial base` begin with models that it draws itself.
TRAINED = [path for path in FILES if {"model", "data", "output"} <= yaml.safe_load(path.read_text()).keys() and "base_" not in path.stem]
LARGE = [path for path in TRAINED if path.stem.endswith(("_7b", "_8b"))]
# Learning rate, batch, ZeRO, parameters that train in billions: LLaVA's scripts/v1_5; the released code of 2510.08564 (its table's sizes).
METHODS: dict[str, tuple[Any, ...]] = {
    "llava15_align_7b": (1e-3, 256, "zero2", 0.02),
    "llava15_instruct_7b": (2e-5, 128, "zero3", 6.76),
    "llava15_instruct_lora_7b": (2e-4, 128, "zero3", 0.34),
    "skill_7b": (5e-6, 32, "zero3", 0.82),
    "skill_full_7b": (5e-6, 16, "zero3", 8.03),
    "skill_lora_7b": (5e-5, 32, "zero3", 0.65),
    "skill_lwf_7b": (5e-6, 16, "zero3", 7.615),
    "skill_qwen_7b": (5e-6, 32, "zero3", 0.82),
    "skill_trees_7b": (5e-6, 32, "zero3", 0.82),
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing was prepared, generated or trained yet."""
    (tmp_path / "train").symlink_to(RECIPES.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reckoned(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["train", str(path), "--dry-run", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def restated(config: BaseModel, values: dict[str, Any], where: str = "") -> Iterator[str]:
    """Paths of a recipe whose values are the defaults."""
    for name, value in values.items():
        field, held = type(config).model_fields[name], getattr(config, name)
        if not field.is_required() and held == field.get_default(call_default_factory=True):
            yield f"{where}{name}"
        elif isinstance(held, BaseModel):
            yield from restated(held, value, f"{where}{name}.")
        elif isinstance(held, tuple) and held and isinstance(held[0], BaseModel):
            for number, one in enumerate(held):
                yield from restated(one, value[number], f"{where}{name}.{number}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_restates_no_default(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(restated(Recipe.model_validate(values), values)) == []


def test_a_restated_default_is_found_at_any_depth() -> None:
    values = {"model": {"base": "x"}, "data": {"sources": [{"path": "a"}, {"path": "b", "weight": 1.0}]}, "train": {"seed": 0, "steps": 3}}
    assert list(restated(Recipe.model_validate(values), values)) == ["data.sources.1.weight", "train.seed"]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_recipe_is_reckoned_where_nothing_is_prepared_yet(path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reckoned(path, capsys, "--gpus", "4")
    assert found["trainable"]["parameters"] == sum(part["parameters"] for part in found["trainable"]["parts"]) > 0
    assert all(source["not_read"].startswith("not here yet: ") for source in found["data"]["sources"])
    assert found["memory"]["exact"] > found["memory"]["gpu"]["weights"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_has_the_settings_of_its_method(name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate, batch, zero, billions = METHODS[name]
    recipe = load_recipe(RECIPES / f"{name}.yaml", check_files=False).train
    assert (recipe.learning_rate, recipe.batch_size, recipe.zero, recipe.epochs) == (rate, batch, zero, 1.0)
    assert (recipe.schedule, recipe.warmup_share, recipe.weight_decay, recipe.precision) == ("cosine", 0.03, 0.0, "bf16")
    assert recipe.gradient_checkpointing
    assert reckoned(RECIPES / f"{name}.yaml", capsys, "--gpus", "8")["trainable"]["parameters"] / 1e9 == pytest.approx(billions, abs=0.006)


def test_the_siamese_recipe_has_the_papers_settings(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = RECIPES / "siamese_gsm8k_8b.yaml"
    recipe = load_recipe(path, check_files=False)
    model, train = recipe.model, recipe.train
    assert model is not None
    assert model.adapter is not None
    assert (model.adapter.kind, model.adapter.rank, model.adapter.alpha or model.adapter.rank, model.adapter.dropout) == (
        "lora",
        16,
        16,
        0.1,
    )
    assert (model.method, model.gate) == ("siamese", None)  # None: query-aware, of rank 8
    assert (train.learning_rate, train.parts.gate.learning_rate, train.batch_size, train.epochs) == (3e-4, 1e-3, 16, 3)
    assert (train.schedule, train.warmup_share, train.weight_decay) == ("cosine", 0.1, 0.0)
    parts = {part["part"]: part["parameters"] for part in reckoned(path, capsys)["trainable"]["parts"]}
    lora = 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))  # q, o; k, v; gate, up, down
    assert parts == {"language_model": lora, "gate": 5 * 4096 * 8}


def test_a_siamese_run_is_reckoned_with_adapter_and_gate_alone_on_disk(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reckoned(RECIPES / "siamese_gsm8k_8b.yaml", capsys)
    assert found["disk"]["checkpoint"] == 4 * found["trainable"]["parameters"]


def test_projector_and_tower_have_the_rates_of_their_methods() -> None:
    rates = {name: load_recipe(RECIPES / f"{name}.yaml", check_files=False).train.parts for name in METHODS}
    assert rates["llava15_instruct_lora_7b"].projector.learning_rate == 2e-5
    assert rates["skill_full_7b"].vision.learning_rate == 2e-6


@pytest.mark.parametrize("path", [*LARGE, *(RECIPES / f"{name}.yaml" for name in STAGES if name != "skill")], ids=lambda path: path.stem)
def test_the_header_of_a_stage_says_hours_command_and_what_to_expect(path: Path) -> None:
    header = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert all(f"{word}:" in header for word in ("Hardware", "Hours", "First", "Command", "Expected"))
    assert re.search(rf"Command: .*train/recipes/{path.name}", header)
    assert path not in LARGE or "not run by us" in header


def test_every_stage_has_a_recipe_that_runs_here_and_one_of_seven_billions() -> None:
    stages = {path.stem: load_recipe(path, check_files=False).train.stage for path in TRAINED}
    assert {stage for name, stage in stages.items() if name.endswith("_7b")} == set(STAGES)
    assert set(STAGES) <= {stage for name, stage in stages.items() if not name.endswith("_7b")}


def test_the_template_beside_the_recipes_is_the_one_that_imported_checkpoints_get() -> None:
    assert (RECIPES / "vicuna_v1.jinja").read_text(encoding="utf-8") == VICUNA
