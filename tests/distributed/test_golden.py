"""One recorded curve of loss and gradient norm, followed by all ways to compute it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from arranged import Values, curve, train_arranged
from golden import golden, golden_steps, golden_values
from ranks import Ranks

TOLERANCE = 2e-5  # relative; measured on one machine: 4e-7
ON_GPU = 1e-3  # other products, other order of sums


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, make_data: Callable[..., Path]) -> Callable[..., Values]:
    data = make_data(tmp_path_factory.mktemp("data"))
    return lambda **settings: golden_values(tmp_path_factory.mktemp("runs") / "run", tiny_folder, data, **settings)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    pool = Ranks(tmp_path_factory.mktemp("gpu"), count=1, device="cuda")
    yield pool
    pool.close()


def follows(pool: Ranks, values: Values, tolerance: float = TOLERANCE) -> None:
    packed = "packing" in values["data"]
    pool.run(train_arranged, values=values, steps=golden_steps(packed=packed))
    found = curve(Path(values["output"]))
    assert found == {name: pytest.approx(expected, rel=tolerance) for name, expected in golden().items()}


@pytest.mark.parametrize("micro_batch_size", [2, 1])
@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero2", "zero3"])
def test_two_ranks_follow_the_curve_at_every_stage(ranks: Ranks, make: Callable[..., Values], zero: str, micro_batch_size: int) -> None:
    follows(ranks, make(zero=zero, micro_batch_size=micro_batch_size))


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_one_process_follows_the_curve_whatever_it_accumulates(alone: Ranks, make: Callable[..., Values], micro_batch_size: int) -> None:
    follows(alone, make(micro_batch_size=micro_batch_size))


@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("zero", ["zero0", "zero2", "zero3"])
def test_packed_rows_follow_the_curve_of_padded_ones(ranks: Ranks, make: Callable[..., Values], zero: str, again: bool) -> None:
    follows(ranks, make(zero=zero, packed=True, gradient_checkpointing=again))


def test_packed_rows_of_one_process_follow_the_curve(alone: Ranks, make: Callable[..., Values]) -> None:
    follows(alone, make(packed=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [{"micro_batch_size": 4}, {"micro_batch_size": 1}, {"packed": True}], ids=str)
@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_a_gpu_follows_the_curve(on_gpu: Ranks, make: Callable[..., Values], zero: str, settings: dict[str, Any]) -> None:
    follows(on_gpu, make(zero=zero, **settings), ON_GPU)
