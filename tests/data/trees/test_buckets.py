"""Hash tables of arrays against comparing all codes."""

import numpy as np
import pytest

from data.trees.buckets import Buckets, pairs_within


def codes(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2**32 - 400, 2**32, (rows, 3), dtype=np.uint32)


@pytest.mark.parametrize("block", [1, 70, 3000])
def test_members_that_share_a_code_are_found(block: int) -> None:
    members, asked, buckets = codes(3000, 0), codes(40, 1), Buckets(3)
    for first in range(0, len(members), block):
        buckets.add(members[first : first + block])
    rows, found = buckets.find(asked)
    expected = [(row, member) for row in range(40) for member in range(3000) for same in asked[row] == members[member] if same]
    assert sorted(zip(rows.tolist(), found.tolist(), strict=True)) == expected


def test_empty_tables_find_nothing() -> None:
    assert [len(part) for part in Buckets(3).find(codes(5, 0))] == [0, 0]


def test_pairs_among_themselves_are_each_found_once() -> None:
    rows = codes(120, 2)
    rows[60:] = rows[:60]
    expected = [(one, other) for one in range(120) for other in range(one + 1, 120) if (rows[one] == rows[other]).any()]
    assert list(zip(*(part.tolist() for part in pairs_within(rows)), strict=True)) == expected
