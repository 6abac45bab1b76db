"""What two ranks hold is what a dry run reckons for two GPUs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks

CASES = [
    ("zero1", "bf16", 2),
    ("zero2", "fp32", 1),
    ("zero2", "bf16", 2),
    ("zero3", "bf16", 1),
    ("zero2_offload", "bf16", 2),
    ("zero3_offload", "bf16", 1),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def held_and_expected(base: str, data: str, folder: str, settings: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    from engine_bytes import bytes_while_training, expected_bytes, recipe_of

    recipe = recipe_of(Path(base), Path(data), Path(folder), **settings)
    return bytes_while_training(recipe), expected_bytes(recipe, Path(folder).parent, gpus=2)


@pytest.mark.parametrize(("zero", "precision", "passes"), CASES)
def test_two_ranks_hold_what_is_reckoned_for_the_fuller_one(
    ranks: Ranks, tiny_folder: Path, data: Path, tmp_path: Path, zero: str, precision: str, passes: int
) -> None:
    settings = {"zero": zero, "precision": precision, "micro_batch_size": 2 // passes, "preset": "full"}
    answers = ranks.run(held_and_expected, base=str(tiny_folder), data=str(data), folder=str(tmp_path / "run"), settings=settings)
    expected = answers[0][1]
    assert {name: max(held[name] for held, _ in answers) for name in expected} == expected


def test_distributed_adapters_are_held_as_reckoned(ranks: Ranks, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    settings = {"zero": "zero3", "precision": "bf16", "preset": "sa_proj+projector"}
    answers = ranks.run(adapters_held_and_expected, base=str(tiny_folder), data=str(data), folder=str(tmp_path / "run"), settings=settings)
    assert all(held == expected for held, expected in answers)


def adapters_held_and_expected(base: str, data: str, folder: str, settings: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    from engine_bytes import bytes_while_training, expected_bytes, recipe_of

    recipe = recipe_of(Path(base), Path(data), Path(folder), **settings)
    recipe["model"]["adapter"] = {"kind": "lora", "rank": 3}
    return bytes_while_training(recipe), expected_bytes(recipe, Path(folder).parent, gpus=2)
