"""Dialogues of a tree as one run of tokens, in which a shared prefix stands once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.packing import pack

BLOCK = 2048  # rows of an index that are compared at once
PARTS_OF_A_ROW = (1, 2)  # a unit has at most so many tokens: a row's, or half of a row's


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Paths of a tree in one run of tokens: depth first, so that what follows below a token stands right behind it.

    Attributes:
        input_ids: int32 [tokens].
        weights: float32 [tokens]: sum over the paths that hold the token.
        positions: int64 [tokens]: each token's depth, the first of the path being 0.
        visible_until: int32 [tokens]: behind the last token below each; token q sees token k where k <= q < visible_until[k].
        predictors: int64 [tokens]: the token before each on its path; the first is its own.
    """

    input_ids: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    visible_until: np.ndarray
    predictors: np.ndarray

    @property
    def is_one_path(self) -> bool:
        """Whether no token has two next to it, as where all paths are the same."""
        return bool((np.diff(self.positions) == 1).all())


def merge(paths: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Branches:
    """Joins paths; each shares with the one before what both begin with (Tree Training, arXiv 2511.00413, section 3).

    Sorted paths become the smallest possible tree. In another order prefixes stand more often than they need to, which costs time alone:
    every path still sees its own tokens, no others.

    Args:
        paths: int32 [tokens] each, none of them empty.
        weights: Of each token of each path in the loss, float32.
    """
    shared = [0, *(common(one, other) for one, other in zip(paths, paths[1:], strict=False))]
    size = sum(map(len, paths)) - sum(shared)
    summed, visible_until = np.zeros(size), np.full(size, size, np.int32)
    places = np.empty(0, np.int64)  # in the run, of the tokens of the path at hand
    positions, predictors, filled = [], [], 0
    for path, weight, depth in zip(paths, weights, shared, strict=True):
        visible_until[places[depth:]] = filled
        positions.append(np.arange(depth, len(path)))
        places = np.concatenate([places[:depth], filled + positions[-1] - depth])
        predictors.append(places[np.maximum(positions[-1] - 1, 0)])
        summed[places] += weight
        filled += len(path) - depth
    return Branches(
        input_ids=np.concatenate([path[depth:] for path, depth in zip(paths, shared, strict=True)]),
        weights=summed.astype(np.float32),
        positions=np.concatenate(positions),
        visible_until=visible_until,
        predictors=np.concatenate(predictors),
    )


def shared_tokens(table: Any, rows: np.ndarray) -> np.ndarray:
    """How many tokens each row begins with like the row before it; 0 where the two stem from different first questions.

    Args:
        table: An index of a tree's dialogues, a `datasets.Dataset`; its ids are those of the last turns.
        rows: int64 [rows], rising: the rows that are used.

    Returns:
        int64 [rows].
    """
    roots = _roots(table.data.column("id"))[rows]
    shared = np.zeros(len(rows), np.int64)
    later = np.flatnonzero(roots[1:] == roots[:-1]) + 1
    for some in np.split(later, np.flatnonzero(np.diff(rows[later] // BLOCK)) + 1) if len(later) else ():
        first, last = rows[some[0] - 1], rows[some[-1]]
        lists = table.data.column("input_ids").slice(first, last - first + 1).combine_chunks()
        shared[some] = _common_of_rows(lists.values.to_numpy(), lists.offsets.to_numpy(), rows[some - 1] - first, rows[some] - first)
    return shared


def join(tokens: np.ndarray, shared: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts dialogues that follow each other into units, which share what they begin with.

    Large units share most, but those longer than half a row leave gaps that only other samples could fill. So it tries units of up to a
    row, then of up to half a row, and takes those that need the fewest rows when they are packed by themselves.

    Args:
        tokens: int [dialogues]: of each dialogue, none above `capacity`.
        shared: int64 [dialogues]: of them those that the one before begins with as well; 0: they do not belong together.
        capacity: Tokens of a row.

    Returns:
        Bounds, int64 [units + 1]: unit i holds the dialogues from bounds[i] to bounds[i + 1]. Tokens of each unit, int32 [units].
    """
    tried = [_joined(tokens, shared, capacity // part) for part in PARTS_OF_A_ROW]
    return min(tried, key=lambda found: len(pack(found[1], capacity, seed=0).rows))


def _joined(tokens: np.ndarray, shared: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Units of at most so many tokens, but for single dialogues that have more."""
    bounds, filled = [], most
    for number, (own, common) in enumerate(zip(tokens.tolist(), shared.tolist(), strict=True)):
        if common and filled + own - common <= most:
            filled += own - common
        else:
            bounds.append(number)
            filled = own
    firsts = np.array(bounds, np.int64)
    return np.append(firsts, len(tokens)), (np.add.reduceat(tokens - shared, firsts) + shared[firsts]).astype(np.int32)


def _roots(ids: Any) -> np.ndarray:
    """A number for the first question of each dialogue: its id up to the first dot."""
    import pyarrow.compute as pc

    numbers: np.ndarray = pc.replace_substring_regex(ids, r"\..*", "").combine_chunks().dictionary_encode().indices.to_numpy()
    return numbers


def common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two paths begin with in common."""
    size = min(len(one), len(other))
    differing = np.flatnonzero(one[:size] != other[:size])
    return int(differing[0]) if len(differing) else size


def _common_of_rows(ids: np.ndarray, bounds: np.ndarray, before: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """As `_common`, of many pairs of rows at once: row i of them holds ids[bounds[i]:bounds[i + 1]]."""
    lengths = np.diff(bounds)
    sizes = np.minimum(lengths[before], lengths[rows])
    starts = np.cumsum(sizes) - sizes
    inside = np.arange(sizes.sum())
    differing = np.flatnonzero(
        ids[inside + np.repeat(bounds[before] - starts, sizes)] != ids[inside + np.repeat(bounds[rows] - starts, sizes)]
    )
    firsts = np.append(differing, len(inside))[np.searchsorted(differing, starts)]
    return np.minimum(firsts - starts, sizes)
