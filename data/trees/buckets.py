"""Hash tables in plain arrays that find all members with whom something shares a code."""

import numpy as np

_SPREAD = np.uint32(2654435769)  # 2**32 / golden ratio: neighbouring codes land far apart
_FIRST_SLOTS = 10  # bits


class Buckets:
    """Members by their codes, one code in each of several tables.

    A member is a number, counted from 0 in the order of adding. Each slot of a table holds its newest member, each member knows the one
    before it in its slot. With its code that makes 12 to 24 bytes a member in each table.
    """

    def __init__(self, tables: int) -> None:
        """Makes empty tables."""
        self.size = 0
        self._bits = _FIRST_SLOTS
        self._heads = np.full((tables, 1 << self._bits), -1, np.int32)
        self._codes = np.empty((tables, 1 << self._bits), np.uint32)
        self._before = np.empty((tables, 1 << self._bits), np.int32)

    def add(self, codes: np.ndarray) -> None:
        """Makes members of the rows of `codes`, uint32 [members, tables]."""
        first, self.size = self.size, self.size + len(codes)
        if self.size > self._codes.shape[1]:
            self._grow()
        self._codes[:, first : self.size] = codes.T
        if self.size > self._heads.shape[1]:
            while self.size > 1 << self._bits:
                self._bits += 2
            self._heads = np.full((len(self._heads), 1 << self._bits), -1, np.int32)
            first = 0
        self._link(first)

    def find(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (row of `codes`, member) that share the code of a table; one pair for each such table.

        Args:
            codes: uint32 [rows, tables].

        Returns:
            Two int64 arrays [pairs].
        """
        tables = codes.shape[1]
        rows, table = np.repeat(np.arange(len(codes)), tables), np.tile(np.arange(tables), len(codes))
        wanted = codes.ravel()
        heads, known, before = self._heads.ravel(), self._codes.ravel(), self._before.ravel()
        at = heads[table * self._heads.shape[1] + self._slots(wanted)]
        start = table * self._codes.shape[1]
        found_rows, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while (going := np.flatnonzero(at >= 0)).size:
            rows, start, wanted, at = rows[going], start[going], wanted[going], at[going]
            place = start + at
            same = np.flatnonzero(known[place] == wanted)
            found_rows.append(rows[same])
            found.append(at[same].astype(np.int64))
            at = before[place]
        return np.concatenate(found_rows), np.concatenate(found)

    def _slots(self, codes: np.ndarray) -> np.ndarray:
        return (codes * _SPREAD) >> np.uint32(32 - self._bits)

    def _link(self, first: int) -> None:
        """Puts the members from `first` on into their slots."""
        for codes, heads, before in zip(self._codes, self._heads, self._before, strict=True):
            slots = self._slots(codes[first : self.size])
            order = np.argsort(slots, kind="stable")
            slots, members = slots[order], (first + order).astype(np.int32)
            starts = np.ones(len(slots), bool)
            starts[1:] = slots[1:] != slots[:-1]
            ends = np.roll(starts, -1)
            before[members[1:]] = members[:-1]
            before[members[starts]] = heads[slots[starts]]
            heads[slots[ends]] = members[ends]

    def _grow(self) -> None:
        capacity = max(self.size, 2 * self._codes.shape[1])
        for name in ("_codes", "_before"):
            old: np.ndarray = getattr(self, name)
            new = np.empty((len(old), capacity), old.dtype)
            new[:, : old.shape[1]] = old
            setattr(self, name, new)


def pairs_within(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (earlier row, later row) of `codes`, uint32 [rows, tables], that share the code of a table; each pair once.

    Returns:
        Two int64 arrays [pairs].
    """
    rows = max(1, len(codes))
    found = [np.empty(0, np.int64)]
    order = np.argsort(codes, axis=0, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=0)
    for apart in range(1, len(codes)):
        same = ordered[apart:] == ordered[:-apart]
        if not same.any():
            break
        found.append(order[:-apart][same] * rows + order[apart:][same])
    earlier, later = np.divmod(np.unique(np.concatenate(found)), rows)
    return earlier, later
