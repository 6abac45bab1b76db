"""Unit vectors near each other are found among many by the signs of their random projections."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from data.trees.buckets import Buckets

MOST_BITS = 20  # of a code: a million members leave about one stranger in each bucket
MOST_TABLES = 64
MISSED = 0.002  # of pairs right at the threshold
WORTH = 1 / 50  # share of the members that may be looked at; looking at one costs as much as a product with some fifty

_STEP = np.float32(2.0**14)
_SKETCH_WORDS = 8
_PAIRS = 1 << 14  # looked at at once


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """What is looked up instead of vectors.

    Attributes:
        codes: uint32 [vectors, tables].
        sketches: Signs of the first projections, uint64 [vectors, words].
    """

    codes: np.ndarray
    sketches: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Some of the vectors."""
        return type(self)(codes=self.codes[rows], sketches=self.sketches[rows])


class Hashes:
    """Members by codes, in several tables; two vectors meet when they share one of them and most of their other signs.

    The share of signs in which two vectors differ is the angle between them divided by pi (Charikar, STOC 2002). The angle is taken around
    the mean of examples: sentence embeddings lie on one side of the origin, seen from where they would share most signs.
    """

    def __init__(self, threshold: float, examples: np.ndarray) -> None:
        """Chooses the mean, the number of tables, the projections.

        Args:
            threshold: Vectors with a cosine above it are to be found.
            examples: Unit vectors like those to come, float32 [examples, dimension]; they do not become members.
        """
        self._mean = examples.mean(axis=0, dtype=np.float64).astype(np.float32)
        # A given distance is a larger angle near the mean: the nearest tenth of the vectors meet less surely than `MISSED` says.
        radius = max(1e-6, float(np.quantile(np.square(examples - self._mean).sum(axis=1), 0.1)))
        same_sign = 1 - math.acos(max(-1.0, 1 - (1 - threshold) / radius)) / math.pi
        self.bits, self.tables = shape(same_sign)
        self._planes = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (examples.shape[1], self.bits * self.tables))
        signs = 64 * min(_SKETCH_WORDS, self._planes.shape[1] // 64)
        self._most_differing = signs * (1 - same_sign) + 6 * math.sqrt(signs * same_sign * (1 - same_sign))
        self._buckets = Buckets(self.tables)
        self._sketches = np.empty((0, signs // 64), np.uint64)

    @property
    def worthwhile(self) -> bool:
        """Whether looking up costs less than products with all members: not so where the threshold is no rarity among the vectors."""
        return self.tables * 2.0**-self.bits <= WORTH

    def describe(self, vectors: np.ndarray) -> Hashed:
        """Hashes unit vectors, float32 [vectors, dimension]."""
        # Multiples of 2**-14 with signs as weights add up without rounding in float32 (up to 2**18 dimensions), in any order: a text has
        # the same codes however many others come with it.
        signs = np.round((vectors - self._mean) * _STEP) @ self._planes >= 0
        packed = np.zeros((len(vectors), self.tables, 4), np.uint8)
        short = np.packbits(signs.reshape(len(vectors), self.tables, self.bits), axis=2, bitorder="little")
        packed[:, :, : short.shape[2]] = short
        words = self._sketches.shape[1]
        sketches = np.ascontiguousarray(np.packbits(signs[:, : 64 * words], axis=1)).view(np.uint64)
        return Hashed(codes=packed.view("<u4")[:, :, 0], sketches=sketches.reshape(len(vectors), words))

    def add(self, hashed: Hashed) -> None:
        """Makes members of vectors; they are numbered from 0 in the order of adding."""
        size = self._buckets.size
        if size + len(hashed.codes) > len(self._sketches):
            grown = np.empty((max(1024, 2 * size, size + len(hashed.codes)), self._sketches.shape[1]), np.uint64)
            grown[:size] = self._sketches[:size]
            self._sketches = grown
        self._sketches[size : size + len(hashed.codes)] = hashed.sketches
        self._buckets.add(hashed.codes)

    def find(self, hashed: Hashed) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (row, member) that meet, two int64 arrays [pairs]; each pair once, ordered."""
        rows, members = self._buckets.find(hashed.codes)
        alike = np.concatenate(
            [np.empty(0, bool)]
            + [
                self._alike(hashed.sketches[rows[first : first + _PAIRS]], self._sketches[members[first : first + _PAIRS]])
                for first in range(0, len(rows), _PAIRS)
            ]
        )
        size = max(1, self._buckets.size)
        found = np.divmod(np.unique(rows[alike] * np.int64(size) + members[alike]), size)
        return found[0], found[1]

    def meet(self, one: Hashed, other: Hashed) -> np.ndarray:
        """Which vectors of `one` meet their partner in `other`, bool [pairs]: exactly what `find` finds among members."""
        return (one.codes == other.codes).any(axis=1) & self._alike(one.sketches, other.sketches)

    def _alike(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int32) <= self._most_differing


def shape(same_sign: float) -> tuple[int, int]:
    """Bits of a code with the number of tables, such that pairs that share each sign with this probability nearly always meet.

    They miss each other with probability `MISSED` at most. Longer codes let fewer strangers meet and need more tables; they are as long as
    `MOST_BITS` and `MOST_TABLES` allow.
    """
    best = 1, MOST_TABLES
    for bits in range(1, MOST_BITS + 1):
        shared = same_sign**bits
        tables = math.ceil(math.log(MISSED) / math.log1p(-shared)) if 1e-9 < shared < 1 else (1 if shared >= 1 else MOST_TABLES + 1)
        if tables > MOST_TABLES:
            break
        best = bits, max(tables, -(-64 // bits))
    return best
