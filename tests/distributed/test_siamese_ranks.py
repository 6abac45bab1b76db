"""Siamese models on two ranks: the steps of one process, whatever a rank's batch shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arranged import FIRST_TEXT, Step, Values, blended, checkpoint, curve, difference, train_arranged
from ranks import Ranks

BLENDS = [blended(blend, 1) for blend in ("TT II", "TI IT", "II TT", "TT TT")]
SECOND = 2 * FIRST_TEXT  # the first record of the second source
TOLERANCE = 1e-5  # relative


def siamese(preset: str = "llm_blocks", kind: str = "lora", **model: Any) -> dict[str, Any]:
    return {"preset": preset, "adapter": {"kind": kind} | ({} if kind == "ia3" else {"rank": 4}), "method": "siamese"} | model


def tensors(folder: Path) -> dict[str, Any]:
    """Adapter and gate of a run's only checkpoint; what both hold near zero is compared beside what it began with."""
    from safetensors.torch import load_file

    found = checkpoint(folder)
    return load_file(found / "adapter" / "adapter_model.safetensors") | load_file(found / "siamese.safetensors")


def both(ranks: Ranks, alone: Ranks, make: Callable[..., Values], zero: str, steps: list[Step], **settings: Any) -> tuple[Path, Path]:
    """Run folders of two ranks at a stage, of one process at stage 0."""
    two, one = (make(zero=stage, learning_rate=1e-2, **settings) for stage in (zero, "zero0"))
    ranks.run(train_arranged, values=two, steps=steps)
    alone.run(train_arranged, values=one, steps=steps)
    return Path(two["output"]), Path(one["output"])


def assert_same(found: Path, expected: Path) -> None:
    assert curve(found)["loss"] == pytest.approx(curve(expected)["loss"], rel=TOLERANCE)
    assert curve(found)["grad_norm"] == pytest.approx(curve(expected)["grad_norm"], rel=TOLERANCE)
    assert difference(tensors(found), tensors(expected)) < 10 * TOLERANCE  # W_B is small: it begins at zero


@pytest.mark.parametrize(
    ("zero", "model"),
    [
        ("zero0", siamese()),
        ("zero1", siamese()),
        ("zero2", siamese()),
        ("zero3", siamese()),
        ("zero2", siamese("llm_blocks[1:]", "ia3")),
        ("zero3", siamese("llm_blocks[1:]", gate={"initial_bias": 1.0})),
        ("zero3", siamese("sa_proj", "dora")),
    ],
    ids=["zero0", "zero1", "zero2", "zero3", "late fork", "late fork, zero3", "dora, zero3"],
)
def test_two_ranks_take_the_steps_of_one_process(
    ranks: Ranks, alone: Ranks, make: Callable[..., Values], zero: str, model: dict[str, Any]
) -> None:
    assert_same(*both(ranks, alone, make, zero, BLENDS, model=model, gradient_checkpointing=zero == "zero3"))


@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_a_rank_that_trains_the_gate_alone_does_not_keep_the_other_waiting(
    ranks: Ranks, alone: Ranks, make: Callable[..., Values], make_data: Callable[..., Path], tmp_path: Path, zero: str
) -> None:
    first, second = (str(make_data(tmp_path / name)) for name in ("first", "second"))
    reading = {"sources": [{"path": first}, {"path": second, "trains": "gate"}]}
    text = SECOND + FIRST_TEXT
    steps = [[[0], [1], [text], [text + 1]], [[text + 2], [text + 3], [2], [3]], [[text + 4], [text + 5], [text + 6], [text + 7]]]
    assert_same(*both(ranks, alone, make, zero, steps, model=siamese(), reading=reading))
