"""Whole runs on dialogues of trees that share rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import write_tree
from safetensors.torch import load_file

from train.config import make_recipe
from train.run import RunResult, train

CHILDREN = [4, 1, 3, 1, 2, 1]  # 24 dialogues of three rounds
LENGTH = 512


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "tree", CHILDREN)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), text_only=0)


def run(
    folder: Path, base: Path, tree: Path, pictures: Path, *, joined: bool, rows: int, model: dict[str, Any] | None = None, **settings: Any
) -> RunResult:
    values = {
        "model": {"base": str(base), "preset": "llm", **(model or {})},
        "data": {
            "sources": [{"path": str(tree), "format": "tree"}, {"path": str(pictures)}],
            "packing": {"length": LENGTH, "trees": joined},
        },
        "train": {"learning_rate": 1e-3, "batch_size": rows, "epochs": 1, "schedule": "constant", "warmup_share": 0.0, **settings},
        "output": str(folder),
    }
    return train(make_recipe(values), progress=True)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def all_rows(folder: Path, *arguments: Any, **options: Any) -> int:
    """How many rows one epoch has."""
    return len(lines(run(folder, *arguments, rows=1, learning_rate=1e-9, **options)))


def one_step(folder: Path, *arguments: Any, **options: Any) -> RunResult:
    """An epoch in one step."""
    rows = all_rows(folder / "counted", *arguments, **options)
    found = run(folder / "run", *arguments, rows=rows, **options)
    assert len(lines(found)) == 1
    return found


def change(result: RunResult, base: Path) -> dict[str, torch.Tensor]:
    before, after = (load_file(folder / "model.safetensors") for folder in (base, result.checkpoint))
    return {name: after[name] - before[name] for name in after}


@pytest.mark.parametrize(
    ("family", "attention", "settings"),
    [
        ("tiny", "auto", {}),
        ("tiny", "eager", {"gradient_checkpointing": True}),
        ("llava-siglip-qwen2", "sdpa", {"micro_batch_size": 1}),
    ],
)
def test_joined_dialogues_train_as_separate_ones_do(
    family: str,
    attention: str,
    settings: dict[str, Any],
    tmp_path: Path,
    tiny_folder: Path,
    family_folder: Callable[[str], Path],
    tree: Path,
    pictures: Path,
) -> None:
    base = tiny_folder if family == "tiny" else family_folder(family)
    options = {"model": {"attention": attention}, **settings}
    together, apart = (one_step(tmp_path / str(joined), base, tree, pictures, joined=joined, **options) for joined in (True, False))
    one, other = lines(together)[0], lines(apart)[0]
    assert one["tokens"] < 0.7 * other["tokens"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["loss_by_source"] == pytest.approx(other["loss_by_source"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for (name, moved), also in zip(change(together, base).items(), change(apart, base).values(), strict=True):
        # AdamW's first step is a sign where a gradient is not tiny: what is left are gradients that vanish in rounding.
        assert ((moved - also).abs() > 1e-5).float().mean() < 0.02, name


def test_a_model_with_multimodal_positions_keeps_paths_apart_and_says_so(
    tmp_path: Path, family_folder: Callable[[str], Path], tree: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path / "run", family_folder("qwen2_5_vl"), tree, pictures, joined=True, rows=4)
    apart = run(tmp_path / "apart", family_folder("qwen2_5_vl"), tree, pictures, joined=False, rows=4)
    assert lines(found)[-1]["loss"] == lines(apart)[-1]["loss"]
    assert capsys.readouterr().err.count("dialogues of trees stay apart") == 1
