"""How far apart two models' shares of right answers to the same questions are, with a 95 % interval.

A bootstrap would give an interval of no width where two models never differ, and would need numbers drawn; a score interval does neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from train.evaluate.score import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Change:
    """A difference of two shares, in -1..1.

    Attributes:
        value: After - before.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Questions that both were asked.
    """

    value: float
    low: float
    high: float
    n: int


def change(before: Sequence[bool], after: Sequence[bool]) -> Change:
    """The change of a share between two answers to each question.

    The interval is Newcombe's score interval for paired proportions (1998, Statistics in Medicine 17:2635, method 10).

    Args:
        before: Whether the first model's answer to each question is right.
        after: The same of the second model.

    Raises:
        ValueError: There is no question, or not both answered all.
    """
    n = len(before)
    if n != len(after) or not n:
        raise ValueError(f"got {n} answers before, {len(after)} after; expected two to each question, of at least one question")
    both = sum(one and other for one, other in zip(before, after, strict=True))
    lost, won = sum(before) - both, sum(after) - both
    neither = n - both - lost - won
    first, second = sum(before) / n, sum(after) / n
    (low_1, high_1), (low_2, high_2) = wilson_interval(sum(before), n), wilson_interval(sum(after), n)
    alike = _correlation(both, lost, won, neither)
    value = second - first
    return Change(
        value=value,
        low=value - _length(second - low_2, high_1 - first, alike),
        high=value + _length(high_2 - second, first - low_1, alike),
        n=n,
    )


def mean(changes: Sequence[Change]) -> Change:
    """The mean change over tasks, each counting alike however many questions it has.

    Distances to the ends of independent intervals add up as squares (Zou and Donner 2008, Statistics in Medicine 27:1693).
    """
    count = len(changes)
    value = sum(one.value for one in changes) / count
    return Change(
        value=value,
        low=value - math.hypot(*(one.value - one.low for one in changes)) / count,
        high=value + math.hypot(*(one.high - one.value for one in changes)) / count,
        n=sum(one.n for one in changes),
    )


def _correlation(both: int, lost: int, won: int, neither: int) -> float:
    """Of the two models' right answers, a positive one made smaller as method 10 says."""
    spread = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if not spread:
        return 0.0
    product = float(both * neither - lost * won)
    if product > 0:
        product = max(product - (both + lost + won + neither) / 2, 0.0)
    return product / math.sqrt(spread)


def _length(one: float, other: float, alike: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * alike * one * other + other * other))
