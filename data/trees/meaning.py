"""Texts of one meaning are found by the cosine of their vectors."""

from dataclasses import dataclass

import numpy as np

from data.trees.hashes import Hashed, Hashes

EXACT_LIMIT = 16_384  # members of a group up to which a text is compared with each of them
CHUNK = 512  # texts compared at once

_BLOCK = 4096  # members in one product
_ROUNDING = 1e-5  # of float32 products of unit vectors, amply


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Texts of one group that were looked up.

    Attributes:
        vectors: float32 [texts, dimension].
        hashed: None where they were compared with every member.
        known: Whether a member means the same, bool [texts].
        near: Of texts that no member resembles, the places of those among themselves that mean the same.
    """

    vectors: np.ndarray
    hashed: Hashed | None
    known: np.ndarray
    near: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How much of what comparing with every member finds is found by hashing.

    Attributes:
        planted: Vectors made of members, each with a cosine just above the threshold to its member, where finding is hardest.
        found: Those of them for which a member was found.
        checked: Members compared with all members before them.
        missed: Those of them that would have been dropped then.
    """

    planted: int
    found: int
    checked: int
    missed: int


class Meaning:
    """Kept members of one group."""

    def __init__(self, threshold: float, exact_limit: int = EXACT_LIMIT) -> None:
        """Texts have one meaning when the cosine of their vectors is above `threshold`, in (0, 1]; hashes members beyond `exact_limit`."""
        self.threshold, self.exact_limit = threshold, exact_limit
        self.size = 0
        self._vectors = np.empty((0, 0), np.float32)
        self._hashes: Hashes | None = None

    @property
    def room(self) -> int | None:
        """Members after which texts are compared in another way; None: no more change."""
        return self.exact_limit - self.size if self.size < self.exact_limit else None

    @property
    def hashed(self) -> bool:
        """Whether texts are looked up by hashes, no longer compared with every member."""
        return self._hashes is not None

    def compare(self, vectors: np.ndarray) -> Compared:
        """Looks up unit vectors, float32 [texts, dimension], at most `CHUNK` of them."""
        hashed = None if self._hashes is None else self._hashes.describe(vectors)
        known = np.zeros(len(vectors), bool)
        if hashed is None:
            known[self._exact(vectors, self.size)] = True
        else:
            assert self._hashes is not None
            rows, members = self._hashes.find(hashed)
            known[rows[self._above(vectors, rows, self._vectors, members)]] = True
        near = [list[int]() for _ in vectors]
        if len(vectors) > 1:
            for one, other in zip(*self._pairs(vectors, hashed, known), strict=True):
                near[one].append(other)
                near[other].append(one)
        return Compared(vectors=vectors, hashed=hashed, known=known, near=near)

    def add(self, texts: Compared, which: list[int]) -> None:
        """Keeps some of the texts; no more than there is `room`."""
        rows = np.asarray(which, np.int64)
        self._store(texts.vectors[rows])
        if self._hashes is not None and texts.hashed is not None:
            self._hashes.add(texts.hashed[rows])
        elif self.size == self.exact_limit:
            self._start_hashing()

    def remember(self, vectors: np.ndarray) -> None:
        """Keeps unit vectors, float32 [texts, dimension], without comparing them."""
        first = 0
        while first < len(vectors):
            piece = vectors[first : first + min(_BLOCK, self.room or _BLOCK)]
            hashed = None if self._hashes is None else self._hashes.describe(piece)
            none = np.zeros(len(piece), bool)
            self.add(Compared(vectors=piece, hashed=hashed, known=none, near=[]), list(range(len(piece))))
            first += len(piece)

    def recall(self, sample: int, seed: int) -> Recall:
        """Measures hashing against comparing with every member, on so many drawn members; all is found where nothing is hashed."""
        if self._hashes is None:
            return Recall(planted=0, found=0, checked=0, missed=0)
        draw = np.random.default_rng(seed)
        chosen = np.sort(draw.choice(self.size, min(sample, self.size), replace=False))
        found = missed = 0
        for first in range(0, len(chosen), CHUNK):
            members = chosen[first : first + CHUNK]
            vectors = self._vectors[members]
            # A little above the threshold, so that rounding does not take it below.
            found += int(self.compare(beside(vectors, self.threshold + 1e-3 * (1 - self.threshold), draw)).known.sum())
            missed += len(self._exact(vectors, members))
        return Recall(planted=len(chosen), found=found, checked=len(chosen), missed=missed)

    def _exact(self, vectors: np.ndarray, before: int | np.ndarray) -> np.ndarray:
        """Rows that mean the same as a member, int64; of members numbered below `before`, one number for all or one for each row."""
        limits = np.broadcast_to(np.asarray(before), (len(vectors),))
        found = [np.empty(0, np.int64)]
        for first in range(0, int(limits.max(initial=0)), _BLOCK):
            block = self._vectors[first : min(first + _BLOCK, self.size)]
            rows, members = np.nonzero(vectors @ block.T > self.threshold - _ROUNDING)
            earlier = first + members < limits[rows]
            rows, members = rows[earlier], members[earlier]
            found.append(rows[self._above(vectors, rows, block, members)])
        return np.unique(np.concatenate(found))

    def _pairs(self, vectors: np.ndarray, hashed: Hashed | None, known: np.ndarray) -> tuple[list[int], list[int]]:
        """Pairs of vectors that mean the same, without those that are known, found as among members."""
        one, other = np.nonzero(np.triu(vectors @ vectors.T > self.threshold - _ROUNDING, 1))
        open_ = ~(known[one] | known[other])
        one, other = one[open_], other[open_]
        same = self._above(vectors, one, vectors, other)
        if hashed is not None:
            assert self._hashes is not None
            same &= self._hashes.meet(hashed[one], hashed[other])
        return one[same].tolist(), other[same].tolist()

    def _above(self, vectors: np.ndarray, rows: np.ndarray, others: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Which pairs have a cosine above the threshold; in float64, since float32 products differ with the shape of the matrices."""
        found = np.empty(len(rows), bool)
        for first in range(0, len(rows), _BLOCK):
            piece = slice(first, first + _BLOCK)
            one, other = vectors[rows[piece]].astype(np.float64), others[members[piece]].astype(np.float64)
            found[piece] = np.einsum("ij,ij->i", one, other) > self.threshold
        return found

    def _store(self, vectors: np.ndarray) -> None:
        needed = self.size + len(vectors)
        if needed > len(self._vectors):
            # Exactly as many at first: there may be very many groups of a few members.
            grown = np.empty((max(needed, 2 * self.size), vectors.shape[1]), np.float32)
            if self.size:
                grown[: self.size] = self._vectors[: self.size]
            self._vectors = grown
        self._vectors[self.size : needed] = vectors
        self.size = needed

    def _start_hashing(self) -> None:
        members = self._vectors[: self.size]
        hashes = Hashes(self.threshold, members)
        if hashes.worthwhile:
            for first in range(0, self.size, _BLOCK):
                hashes.add(hashes.describe(members[first : first + _BLOCK]))
            self._hashes = hashes


def beside(vectors: np.ndarray, cosine: float, draw: np.random.Generator) -> np.ndarray:
    """Unit vectors in random directions from the given ones, each with this cosine to its own; float32 [vectors, dimension]."""
    noise = draw.standard_normal(vectors.shape, np.float32)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return cosine * vectors + np.float32((1 - cosine**2) ** 0.5) * noise
