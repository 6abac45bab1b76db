"""Duplicates among turns are found exactly first, then by a measure of likeness."""

import math
import re
import unicodedata
import zlib
from collections import defaultdict
from typing import Literal, Protocol

import numpy as np

Verdict = Literal["exact_duplicate", "near_duplicate"]

SHINGLE = 3  # characters

_EDGE_PUNCTUATION = " .!?…,;:\"'“”‘’"


def normalise(text: str) -> str:
    """`text` without differences of case, width, spacing, quotes around it or punctuation at its ends."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip(_EDGE_PUNCTUATION)


def shingles(text: str) -> frozenset[str]:
    """All runs of three characters of the normalised text, its ends marked by blanks."""
    padded = f" {normalise(text)} "
    return frozenset(padded[place : place + SHINGLE] for place in range(len(padded) - SHINGLE + 1))


class Near(Protocol):
    """Members of a group that can be asked whether a text is like one of them."""

    def knows(self, text: str, vector: np.ndarray | None) -> bool:
        """Whether a member is more alike than the threshold; the vector is that of the text, where the measure needs one."""

    def add(self, text: str, vector: np.ndarray | None) -> None:
        """Makes a text a member."""


class Seen:
    """The kept members of one group; of two that are the same the first one offered stays."""

    def __init__(self, near: Near | None = None) -> None:
        """Looks for near-duplicates with `near`; for exact ones only when None."""
        self.near = near
        self._texts: set[str] = set()

    def __contains__(self, text: str) -> bool:
        """Whether an exact duplicate of `text` was kept."""
        return normalise(text) in self._texts

    def offer(self, text: str, vector: np.ndarray | None = None) -> Verdict | None:
        """Keeps a text, or says why not; None means that it is new, and from now on known."""
        if text in self:
            return "exact_duplicate"
        if self.near is not None:
            if self.near.knows(text, vector):
                return "near_duplicate"
            self.near.add(text, vector)
        self._texts.add(normalise(text))
        return None


class AlikeShingles:
    """Jaccard similarity of character shingles, exact, by prefix filtering.

    Sets with a similarity above t share an element among the first |x| - ⌈t|x|⌉ + 1 of each, in any fixed order of all
    elements; so only members that share one of these few are compared (Bayardo et al., WWW 2007).
    """

    def __init__(self, threshold: float) -> None:
        """Near-duplicates are those above `threshold`, in (0, 1]."""
        self.threshold = threshold
        self._members: list[frozenset[str]] = []
        self._index: defaultdict[str, list[int]] = defaultdict(list)

    def knows(self, text: str, vector: np.ndarray | None = None) -> bool:
        """See `Near.knows`."""
        mine = shingles(text)
        places = {place for shingle in self._prefix(mine) for place in self._index.get(shingle, ())}
        return any(len(mine & other) > self.threshold * len(mine | other) for other in (self._members[place] for place in places))

    def add(self, text: str, vector: np.ndarray | None = None) -> None:
        """See `Near.add`."""
        mine = shingles(text)
        for shingle in self._prefix(mine):
            self._index[shingle].append(len(self._members))
        self._members.append(mine)

    def _prefix(self, mine: frozenset[str]) -> list[str]:
        # Ordered by a hash: in alphabetical order the first shingles would be the same common ones everywhere.
        ordered = sorted(mine, key=lambda shingle: (zlib.crc32(shingle.encode()), shingle))
        return ordered[: len(mine) - math.ceil(self.threshold * len(mine)) + 1]


class AlikeVectors:
    """Cosine of vectors, against every member: time grows with the square of the group."""

    def __init__(self, threshold: float) -> None:
        """Near-duplicates are those above `threshold`, in (0, 1]."""
        self.threshold = threshold
        self._vectors = np.empty((0, 0), np.float32)
        self._size = 0

    def knows(self, text: str, vector: np.ndarray | None) -> bool:
        """See `Near.knows`; takes a unit vector, float32 [dimension]."""
        assert vector is not None, "cosines need vectors"
        return bool(self._size) and float((self._vectors[: self._size] @ vector).max()) > self.threshold

    def add(self, text: str, vector: np.ndarray | None) -> None:
        """See `Near.add`."""
        assert vector is not None, "cosines need vectors"
        if self._size == len(self._vectors):
            grown = np.empty((max(64, 2 * self._size), len(vector)), np.float32)
            grown[: self._size] = self._vectors[: self._size] if self._size else 0
            self._vectors = grown
        self._vectors[self._size] = vector
        self._size += 1
