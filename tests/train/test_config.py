"""Recipes: what is accepted, how wrong ones are told."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.cli import main
from train.config import load_recipe, make_recipe


@pytest.fixture
def values(tiny_folder: Path, tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": {"base": str(tiny_folder), "preset": "sa_proj"},
        "data": {"sources": [{"path": str(tiny_data)}]},
        "train": {"learning_rate": 1e-3, "batch_size": 4, "steps": 2},
        "output": str(tmp_path / "run"),
    }


def write(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_overrides_replace_values_at_any_depth(values: dict[str, Any], tmp_path: Path) -> None:
    words = ["--train.learning_rate", "3e-4", "--data.sources.0.weight=2", "--train.save_every", "5", "--output=elsewhere"]
    recipe = load_recipe(write(tmp_path, values), words)
    assert recipe.train.learning_rate == 3e-4
    assert recipe.data is not None
    assert recipe.data.sources[0].weight == 2.0
    assert (recipe.train.save_every, recipe.output) == (5, "elsewhere")


def test_a_built_in_name_becomes_its_folder(values: dict[str, Any]) -> None:
    values["model"]["base"] = "terrarium"
    recipe = make_recipe(values, check_files=False)
    assert recipe.model is not None
    assert recipe.model.base is not None
    assert Path(recipe.model.base).parts[-3:] == ("data", "terrarium", "base")


def test_a_recipe_reads_the_same_after_it_was_written_down(values: dict[str, Any]) -> None:
    recipe = make_recipe(values)
    assert make_recipe(recipe.model_dump(mode="json")) == recipe


WRONG = [
    ({"train": {"learning_rat": 1}}, ["train.learning_rat: unknown key", "did you mean 'learning_rate'"]),
    ({"trian": {}}, ["trian: unknown key", "did you mean 'train'"]),
    ({"data": {"sources": [{"path": "x", "lss_on": "all"}]}}, ["data.sources.0.lss_on: unknown key", "did you mean 'loss_on'"]),
    ({"train": {"batch_size": "many"}}, ["train.batch_size: got 'many'", "should be a valid integer"]),
    ({"train": {"batch_size": 0}}, ["train.batch_size: got 0", "greater than or equal to 1"]),
    ({"train": {"zero": "zero_2"}}, ["train.zero: got 'zero_2'", "did you mean 'zero2'"]),
    ({"model": {"base": "x", "preset": "sa_prj"}}, ["model.preset: unknown preset 'sa_prj'", "did you mean 'sa_proj'"]),
    ({"model": {"preset": "full"}}, ["model: base (or vision with language) is missing"]),
    ({"model": {"base": "x", "vision": "y"}}, ["model: base and vision are both given"]),
    ({"model": {"vision": "y"}}, ["model: language is missing"]),
    ({"data": {"sources": []}}, ["data.sources: got []", "at least 1 item"]),
    ({"data": {"text_share": 0.5}}, ["data.sources: missing"]),
    ({"model": {"base": "/no/such/folder"}}, ["model.base: /no/such/folder does not exist", "terrarium"]),
    ({"data": {"sources": [{"path": "/no/such/file.json"}]}}, ["data.sources.0.path: /no/such/file.json does not exist"]),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=lambda value: value[0].split(":")[0] if isinstance(value, list) else "")
def test_a_wrong_recipe_ends_with_one_message_and_exit_code_2(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: Sequence[str]
) -> None:
    assert main(["train", str(write(tmp_path, {**values, **change}))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("perennial: ")
    for words in told:
        assert words in err


def test_all_problems_are_told_at_once(values: dict[str, Any]) -> None:
    values["train"] |= {"learning_rat": 1, "batch_size": "many"}
    with pytest.raises(ValueError, match=r"(?s)batch_size.*learning_rat"):
        make_recipe(values)


@pytest.mark.parametrize("section", ["model", "data", "output"])
def test_a_missing_section_is_named(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str) -> None:
    del values[section]
    assert main(["train", str(write(tmp_path, values))]) == 2
    assert f"{section}: missing in the recipe" in capsys.readouterr().err


def test_a_missing_recipe_names_the_nearest_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "counting.yaml").touch()
    assert main(["train", str(tmp_path / "countin.yaml")]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--train.steps"], ["--data.sources.7.path", "x"], ["--output.name", "x"], ["--train.steps", "no"]])
def test_a_wrong_override_is_an_error_that_names_it(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["train", str(write(tmp_path, values)), *words]) == 2
    assert words[0].removeprefix("--").partition(".")[0] in capsys.readouterr().err


def test_yaml_that_cannot_be_read_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {base: x\ndata: [", encoding="utf-8")
    assert main(["train", str(path)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_recipe_is_checked_without_importing_torch(tmp_path: Path, values: dict[str, Any]) -> None:
    values["train"]["learning_rat"] = 1
    words = ["train", str(write(tmp_path, values))]
    code = f"import sys; from train.cli import main; print(main({words!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "2 False"
