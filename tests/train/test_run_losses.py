"""Runs with terms beside cross-entropy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stopping import broken_at

from train.config import make_recipe
from train.run import RunResult, train

CROSS_ENTROPY = {"kind": "cross_entropy"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def run(
    folder: Path, base: Path, data: Path, losses: list[dict[str, Any]], *, model: dict[str, Any] | None = None, **settings: Any
) -> RunResult:
    common = {"learning_rate": 1e-2, "batch_size": 4, "steps": 4, "warmup_share": 0.0, "schedule": "constant"}
    values = {
        "model": {"base": str(base), "preset": "full"} | (model or {}),
        "data": {"sources": [{"path": str(data)}]},
        "train": common | settings | {"losses": losses},
        "output": str(folder),
    }
    return train(make_recipe(values), progress=False)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    return load_file(result.checkpoint / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name].float() - other[name].float()).square().sum()) for name in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "plain", tiny_folder, data, [CROSS_ENTROPY])


@pytest.mark.parametrize("kind", ["lwf", "kl_to_base"])
def test_a_term_of_weight_zero_changes_nothing(kind: str, tmp_path: Path, tiny_folder: Path, data: Path, plain: RunResult) -> None:
    found = run(tmp_path / "run", tiny_folder, data, [CROSS_ENTROPY, {"kind": kind, "weight": 0.0}])
    assert distance(weights(found), weights(plain)) == 0


def test_before_the_first_step_the_model_is_its_own_teacher(tmp_path: Path, tiny_folder: Path, data: Path, plain: RunResult) -> None:
    found = run(tmp_path / "run", tiny_folder, data, [CROSS_ENTROPY, {"kind": "lwf", "weight": 5.0}])
    assert lines(found)[0]["loss"] == pytest.approx(lines(plain)[0]["loss"], rel=1e-6)
    assert lines(found)[1]["loss"] > lines(plain)[1]["loss"] + 0.01


WAYS = {
    "full": ({}, "zero2"),
    "full under zero3": ({}, "zero3"),
    "lora": ({"preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 4}}, "zero2"),
    "lora under zero3": ({"preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 4}}, "zero3"),
    "lora with a projector": ({"preset": "llm_blocks+projector", "adapter": {"kind": "lora", "rank": 4}}, "zero2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_heavy_teacher_holds_the_model_where_it_was(way: str, tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    model, zero = WAYS[way]
    free = run(tmp_path / "free", tiny_folder, data, [CROSS_ENTROPY], model=model, zero=zero, steps=8)
    held = run(
        tmp_path / "held", tiny_folder, data, [{"kind": "cross_entropy", "weight": 1e-3}, {"kind": "kl_to_base", "on": "all"}],
        model=model, zero=zero, steps=8,
    )  # fmt: skip
    drift = [drift_of(result, tiny_folder, data) for result in (free, held)]
    assert drift[1] < 0.2 * drift[0]


def test_a_named_teacher_teaches_the_same_under_every_stage(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    losses = [CROSS_ENTROPY, {"kind": "lwf", "teacher": str(tiny_folder)}]
    model = {"preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 4}}
    two, three = (run(tmp_path / zero, tiny_folder, data, losses, model=model, zero=zero, steps=3) for zero in ("zero2", "zero3"))
    assert [line["loss"] for line in lines(three)] == pytest.approx([line["loss"] for line in lines(two)], rel=1e-4)


def drift_of(result: RunResult, base: Path, data: Path) -> float:
    """Mean divergence of the tuned model from the base on a text."""
    from model.build import load_pair

    found = []
    for folder in (base, result.checkpoint):
        model, processor = load_pair(folder)
        ids = processor.tokenizer("What is 3 plus two? 3 plus two is 5.", return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(model(input_ids=ids).logits[0].log_softmax(dim=-1))
    return float((found[0].exp() * (found[0] - found[1])).sum(dim=-1).mean())


def test_a_named_teacher_teaches(tmp_path: Path, tiny_folder: Path, data: Path, plain: RunResult) -> None:
    teaches = {"kind": "lwf", "teacher": str(plain.checkpoint), "temperature": 1.0}
    own = run(tmp_path / "own", tiny_folder, data, [teaches | {"teacher": None}], learning_rate=1e-9, steps=1)
    other = run(tmp_path / "other", tiny_folder, data, [teaches], learning_rate=1e-9, steps=1)
    assert lines(own)[0]["loss"] == pytest.approx(0, abs=1e-5)
    assert lines(other)[0]["loss"] > 0.05


def test_a_resumed_run_has_the_teacher_of_its_start(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    terms = [CROSS_ENTROPY, {"kind": "lwf"}]
    whole = run(tmp_path / "whole", tiny_folder, data, terms, save_every=2)
    with broken_at(3):
        run(tmp_path / "run", tiny_folder, data, terms, save_every=2)
    assert distance(weights(run(tmp_path / "run", tiny_folder, data, terms, save_every=2)), weights(whole)) == 0


def test_eaft_moves_the_model_less_than_cross_entropy(tmp_path: Path, tiny_folder: Path, data: Path, plain: RunResult) -> None:
    found = run(tmp_path / "run", tiny_folder, data, [{"kind": "eaft"}])
    assert 0 < lines(found)[0]["loss"] < lines(plain)[0]["loss"]


def test_terms_do_not_depend_on_how_a_batch_is_cut(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    terms = [CROSS_ENTROPY, {"kind": "kl_to_base", "weight": 0.5}, {"kind": "eaft", "on": "images"}]
    one = run(tmp_path / "one", tiny_folder, data, terms)
    cut = run(tmp_path / "cut", tiny_folder, data, terms, micro_batch_size=1)
    assert [line["loss"] for line in lines(cut)] == pytest.approx([line["loss"] for line in lines(one)], rel=1e-5)


def test_a_teacher_with_another_vocabulary_is_refused(
    tmp_path: Path, tiny_folder: Path, data: Path, family_folder: Callable[[str], Path]
) -> None:
    teacher = str(family_folder("qwen2_5_vl"))
    with pytest.raises(ValueError, match=r"teacher .* has a vocabulary of \d+ tokens, the model of \d+"):
        run(tmp_path / "run", tiny_folder, data, [CROSS_ENTROPY, {"kind": "lwf", "teacher": teacher}])
