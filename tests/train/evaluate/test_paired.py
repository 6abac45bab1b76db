"""The interval of a change between two answers to each question."""

import pytest

from train.evaluate.paired import Change, change, mean
from train.evaluate.score import wilson_interval


def answers(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Right answers of two models, from the four counts."""
    before = [True] * both + [True] * lost + [False] * won + [False] * neither
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    return before, after


def test_the_interval_is_what_one_computes_by_hand() -> None:
    # Wilson: 22 of 50 0.3116 to 0.5769, 32 of 50 0.5014 to 0.7586; correlation (20 x 16 - 2 x 12 - 25) / sqrt(22 x 28 x 32 x 18) = 0.4550
    # 0.2 - sqrt(0.1386² - 2 x 0.4550 x 0.1386 x 0.1369 + 0.1369²), 0.2 + sqrt(0.1186² - 2 x 0.4550 x 0.1186 x 0.1284 + 0.1284²)
    found = change(*answers(20, 2, 12, 16))
    assert (found.value, found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.0562, abs=1e-4), pytest.approx(0.3292, abs=1e-4))


def test_the_other_way_round_the_interval_is_mirrored() -> None:
    there, back = change(*answers(20, 2, 12, 16)), change(*answers(20, 12, 2, 16))
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_models_that_never_differ_may_still_differ_by_some_points() -> None:
    found = change(*answers(40, 0, 0, 0))
    assert found.value == 0
    assert found.high == pytest.approx(1 - wilson_interval(40, 40)[0])  # by hand: no correlation is known where nobody errs
    assert found.low == pytest.approx(-found.high)


def test_pairs_that_agree_narrow_the_interval() -> None:
    paired, crossed = change(*answers(20, 0, 4, 16)), change(*answers(4, 16, 20, 0))
    assert paired.value == crossed.value
    assert paired.high - paired.low < 0.7 * (crossed.high - crossed.low)


def test_each_task_counts_alike_in_a_mean() -> None:
    one, other = Change(value=0.1, low=-0.2, high=0.2, n=10), Change(value=0.3, low=-0.1, high=0.6, n=90)
    found = mean([one, other])
    # by hand: 0.2 - sqrt(0.3² + 0.4²) / 2, 0.2 + sqrt(0.1² + 0.3²) / 2
    assert (found.value, found.low, found.high, found.n) == (
        pytest.approx(0.2),
        pytest.approx(-0.05),
        pytest.approx(0.35811, abs=1e-5),
        100,
    )


def test_the_mean_over_one_task_is_that_task() -> None:
    one = change(*answers(5, 1, 3, 2))
    assert mean([one]) == Change(value=one.value, low=pytest.approx(one.low), high=pytest.approx(one.high), n=11)


def test_unequal_numbers_of_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 answers before, 1 after"):
        change([True, False], [True])
