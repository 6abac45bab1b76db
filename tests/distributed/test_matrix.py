"""Every ZeRO stage on two ranks, whatever blend of pictures and text they hold, takes the steps of one process."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from arranged import Values, blended, curve, difference, train_arranged, weights
from ranks import Ranks

BLENDS = ("TT II", "TI IT", "TT TT", "II TT")  # rank 0, rank 1 in steps 1 to 4; in the third no rank has a picture
ZEROS = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
PRESETS = {"frozen": "llm", "trainable": "full"}  # tower with projector
TOLERANCE = 1e-5  # relative; measured: 2e-7 for losses and norms, 1e-6 for tensors


@pytest.fixture(scope="module")
def one(alone: Ranks, make: Callable[..., Values]) -> Callable[[str], Path]:
    """Run folder of one process at stage 0, all rows in one pass."""

    @cache
    def run(tower: str) -> Path:
        values = make(zero="zero0", model={"preset": PRESETS[tower]})
        alone.run(train_arranged, values=values, steps=[blended(blend, 1) for blend in BLENDS])
        return Path(values["output"])

    return run


Case = tuple[str, str, bool, int]
CASES = [(zero, tower, again, passes) for tower in PRESETS for zero in ZEROS for again in (False, True) for passes in (1, 2)]


def name(case: Case) -> str:
    zero, tower, again, passes = case
    return f"{zero}-{tower}{'-checkpointing' if again else ''}{'-accumulating' if passes > 1 else ''}"


@pytest.fixture(scope="module")
def two(ranks: Ranks, make: Callable[..., Values]) -> Callable[[Case], tuple[Path, list[list[str]]]]:
    """Run folder of two ranks, with what each was shown in each pass; a run that failed is not tried again."""

    @cache
    def run(case: Case) -> Any:
        zero, tower, again, passes = case
        settings = {"zero": zero, "gradient_checkpointing": again, "micro_batch_size": 2 // passes}
        values = make(**settings, model={"preset": PRESETS[tower]})
        try:
            return Path(values["output"]), ranks.run(train_arranged, values=values, steps=[blended(blend, passes) for blend in BLENDS])
        except AssertionError as problem:
            return problem

    def result(case: Case) -> tuple[Path, list[list[str]]]:
        found = run(case)
        if isinstance(found, AssertionError):
            raise found
        return found

    return result


Two = Callable[[Case], tuple[Path, list[list[str]]]]
every_case = pytest.mark.parametrize("case", CASES, ids=name)


@every_case
def test_losses_and_gradient_norms_are_those_of_one_process(two: Two, one: Callable[[str], Path], case: Case) -> None:
    found, expected = curve(two(case)[0]), curve(one(case[1]))
    assert found["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=TOLERANCE)


@every_case
def test_the_last_weights_are_those_of_one_process(two: Two, one: Callable[[str], Path], case: Case) -> None:
    assert difference(weights(two(case)[0]), weights(one(case[1]))) < TOLERANCE


@every_case
def test_passes_of_text_alone_carry_a_blank_picture_where_one_is_needed(two: Two, case: Case) -> None:
    zero, tower, _, passes = case
    text = "blank" if tower == "trainable" or zero.startswith("zero3") else "text"
    kinds = {"I": "pictures", "T": text}
    if passes == 2:
        expected = [[kinds[kind] for blend in BLENDS for kind in blend.split()[rank]] for rank in (0, 1)]
    else:
        expected = [[kinds["I" if "I" in blend.split()[rank] else "T"] for blend in BLENDS] for rank in (0, 1)]
    assert two(case)[1] == expected
