"""Two ranks with unlike batches: other families, adapters, bf16, and what happens without the blank picture."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from arranged import Step, Values, blended, curve, difference, train_arranged, weights
from ranks import RankFailure, Ranks

BLENDS = [blended(blend, 1) for blend in ("TT II", "TI IT", "TT TT", "II TT")]
TOLERANCE = 1e-5  # relative


def train_without_blank(values: Values, steps: list[Step]) -> list[str]:
    with patch("train.trainer.blank_inputs", lambda *_, **__: None):
        return train_arranged(values, steps)


def train_thrice(values: Values, steps: list[Step]) -> dict[str, Any]:
    """Trains at stage 0, 2, 3 in turn; gives what is left of engines and of accelerate's settings."""
    for zero in ("zero0", "zero2", "zero3"):
        train_arranged(values | {"train": values["train"] | {"zero": zero}}, steps)
    gc.collect()
    engines = [type(one).__name__ for one in gc.get_objects() if type(one).__name__.startswith("DeepSpeed")]
    return {"engines": engines.count("DeepSpeedEngine"), "settings": [name for name in os.environ if name.startswith("ACCELERATE_")]}


def test_engines_of_runs_in_turn_do_not_pile_up_in_a_rank(ranks: Ranks, make: Callable[..., Values]) -> None:
    for left in ranks.run(train_thrice, values=make(), steps=BLENDS[:1]):
        assert left["engines"] <= 1  # DeepSpeed itself holds the last one
        assert left["settings"] == []


@pytest.mark.parametrize("preset", ["full", "llm"])
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
@pytest.mark.parametrize("family", ["llava-siglip-qwen2", "qwen2_5_vl"])
def test_other_families_take_the_steps_of_one_process(
    ranks: Ranks, alone: Ranks, make: Callable[..., Values], family_folder: Callable[[str], Path], family: str, zero: str, preset: str
) -> None:
    two, one = (make(family_folder(family), zero=stage, model={"preset": preset}) for stage in (zero, "zero0"))
    ranks.run(train_arranged, values=two, steps=BLENDS)
    alone.run(train_arranged, values=one, steps=BLENDS)
    found, expected = (Path(values["output"]) for values in (two, one))
    assert curve(found)["loss"] == pytest.approx(curve(expected)["loss"], rel=TOLERANCE)
    assert curve(found)["grad_norm"] == pytest.approx(curve(expected)["grad_norm"], rel=TOLERANCE)
    assert difference(weights(found), weights(expected)) < TOLERANCE


@pytest.mark.parametrize("preset", ["sa_proj", "llm_blocks+projector"])
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_adapters_take_the_steps_of_one_process(ranks: Ranks, alone: Ranks, make: Callable[..., Values], zero: str, preset: str) -> None:
    model = {"preset": preset, "adapter": {"kind": "lora", "rank": 4}}
    two, one = (make(zero=stage, model=dict(model), gradient_checkpointing=True) for stage in (zero, "zero0"))
    ranks.run(train_arranged, values=two, steps=BLENDS)
    alone.run(train_arranged, values=one, steps=BLENDS)
    found, expected = (Path(values["output"]) for values in (two, one))
    assert curve(found)["loss"] == pytest.approx(curve(expected)["loss"], rel=TOLERANCE)
    assert difference(weights(found), weights(expected)) < TOLERANCE


def test_bf16_is_the_same_at_stages_1_2_and_3(ranks: Ranks, make: Callable[..., Values]) -> None:
    found = []
    for zero in ("zero1", "zero2", "zero3"):
        values = make(zero=zero, precision="bf16")
        ranks.run(train_arranged, values=values, steps=BLENDS)
        found.append(curve(Path(values["output"])))
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-3)
        assert other["grad_norm"] == pytest.approx(found[0]["grad_norm"], rel=2e-2)


@pytest.mark.parametrize(("zero", "preset"), [("zero2", "full"), ("zero3", "llm")])
def test_without_the_blank_picture_the_ranks_fail(ranks: Ranks, make: Callable[..., Values], zero: str, preset: str) -> None:
    values = make(zero=zero, model={"preset": preset})
    ranks.run(train_arranged, values=values, steps=BLENDS, limit=60)  # with it, the same job is done in the same time
    with pytest.raises(RankFailure, match=r"died: SIGABRT|hang: rank"):
        ranks.run(train_without_blank, values=make(zero=zero, model={"preset": preset}), steps=BLENDS, limit=60)
