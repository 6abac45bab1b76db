"""Texts that are spelt alike are found by MinHash, then compared exactly."""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.trees.buckets import Buckets, pairs_within

SHINGLE = 3  # characters
MISSED = 0.001  # of pairs right at the threshold
MOST_HASHES = 192

_EDGE_PUNCTUATION = " .!?…,;:\"'“”‘’"
_PIECE = 1 << 15  # characters hashed at once: what lies in the processor's cache
_PAIRS = 1 << 14  # pairs of texts whose marks are compared at once


def normalise(text: str) -> str:
    """`text` without differences of case, width, spacing, quotes around it or punctuation at its ends."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip(_EDGE_PUNCTUATION)


def shingles(form: str) -> frozenset[str]:
    """All runs of three characters of a normalised text, its ends marked by blanks."""
    padded = _padded(form)
    return frozenset(padded[place : place + SHINGLE] for place in range(len(padded) - SHINGLE + 1))


def bands(threshold: float) -> tuple[int, int]:
    """Bands with hashes in each, such that of pairs at the threshold at most `MISSED` share no band.

    More hashes in a band let fewer unlike pairs through and need more bands; as many as `MOST_HASHES` hashes in all allow are taken.
    """
    best = math.ceil(math.log(MISSED) / math.log1p(-threshold)) if threshold < 1 else 1, 1
    for width in range(2, MOST_HASHES + 1):
        shared = threshold**width
        number = math.ceil(math.log(MISSED) / math.log1p(-shared)) if shared < 1 else 1
        if number * width > MOST_HASHES:
            break
        best = number, width
    return best


@dataclass(frozen=True, kw_only=True)
class Spelt:
    """Texts, each another in its group, ready to be compared.

    Attributes:
        groups: int64 [texts].
        forms: Normalised.
        codes: uint32 [texts, bands]; groups never share one but by chance.
        marks: Eight bits of each hash, uint8 [texts, hashes]: how many agree tells two texts' similarity roughly.
    """

    groups: np.ndarray
    forms: Sequence[str]
    codes: np.ndarray
    marks: np.ndarray


class Spelling:
    """Kept texts of all groups, by spelling."""

    def __init__(self, threshold: float) -> None:
        """Alike are texts of one group whose sets of shingles have a Jaccard similarity above `threshold`, in (0, 1]."""
        self.threshold = threshold
        number, width = bands(threshold)
        draw = np.random.default_rng(0)
        # Odd factors: multiplication with them is a permutation of 64-bit numbers.
        self._factors = draw.integers(1 << 63, size=(number, width), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._shifts = draw.integers(1 << 63, size=(number, width), dtype=np.uint64)
        hashes = number * width
        # Five standard deviations below what pairs at the threshold agree in: one of three million of them is lost here.
        self._agreeing = threshold * hashes - 5 * math.sqrt(threshold * (1 - threshold) * hashes)
        self._buckets = Buckets(number)
        self._marks = np.empty((0, hashes), np.uint8)
        self._groups: list[int] = []
        self._forms: list[str] = []

    def describe(self, groups: Sequence[int], forms: Sequence[str]) -> Spelt:
        """Hashes normalised texts."""
        own = np.asarray(groups, np.int64)
        spelt = Spelt(
            groups=own,
            forms=forms,
            codes=np.empty((len(forms), len(self._factors)), np.uint32),
            marks=np.empty((len(forms), self._factors.size), np.uint8),
        )
        ends = np.cumsum([len(form) + 2 for form in forms])
        first = 0
        while first < len(forms):
            done = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + _PIECE, "right")))
            self._hash(spelt, slice(first, last))
            first = last
        return spelt

    def compare(self, texts: Spelt) -> tuple[np.ndarray, list[list[str]]]:
        """Looks for texts that are alike.

        Returns:
            For each text whether a kept one is like it, bool [texts]; for each that has none, the forms like it among `texts` themselves.
        """
        known, near = np.zeros(len(texts.forms), bool), [list[str]() for _ in texts.forms]
        sets: dict[str, frozenset[str]] = {}
        size = max(1, self._buckets.size)
        rows, members = self._buckets.find(texts.codes)
        rows, members = np.divmod(np.unique(rows * np.int64(size) + members), size)
        for row, member in self._likely(texts.marks, rows, self._marks, members):
            if not known[row] and self._groups[member] == texts.groups[row]:
                known[row] = self._alike(texts.forms[row], self._forms[member], sets)
        earlier, later = pairs_within(texts.codes)
        for one, other in self._likely(texts.marks, earlier, texts.marks, later):
            if known[one] or known[other] or texts.groups[one] != texts.groups[other]:
                continue
            if self._alike(texts.forms[one], texts.forms[other], sets):
                near[one].append(texts.forms[other])
                near[other].append(texts.forms[one])
        return known, near

    def add(self, texts: Spelt, which: Sequence[int]) -> None:
        """Keeps some of the texts."""
        rows = np.asarray(which, np.int64)
        size = self._buckets.size
        if size + len(rows) > len(self._marks):
            grown = np.empty((max(64, 2 * size, size + len(rows)), self._marks.shape[1]), np.uint8)
            grown[:size] = self._marks[:size]
            self._marks = grown
        self._marks[size : size + len(rows)] = texts.marks[rows]
        self._buckets.add(texts.codes[rows])
        self._groups += texts.groups[rows].tolist()
        self._forms += [texts.forms[row] for row in rows]

    def _likely(self, marks: np.ndarray, rows: np.ndarray, others: np.ndarray, members: np.ndarray) -> Iterator[tuple[int, int]]:
        """The pairs of rows whose marks agree in nearly as many places as those of a pair at the threshold, or more."""
        for first in range(0, len(rows), _PAIRS):
            one, other = rows[first : first + _PAIRS], members[first : first + _PAIRS]
            likely = (marks[one] == others[other]).sum(1) >= self._agreeing
            yield from zip(one[likely].tolist(), other[likely].tolist(), strict=True)

    def _alike(self, one: str, other: str, sets: dict[str, frozenset[str]]) -> bool:
        for form in (one, other):
            if form not in sets:
                sets[form] = shingles(form)
        first, second = sets[one], sets[other]
        if min(len(first), len(second)) <= self.threshold * max(len(first), len(second)):
            return False
        common = len(first & second)
        return common > self.threshold * (len(first) + len(second) - common)

    def _hash(self, spelt: Spelt, piece: slice) -> None:
        padded = [_padded(form) for form in spelt.forms[piece]]
        lengths = np.array([len(text) for text in padded])
        points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        # 21 bits a character: three of them fit into 64 without loss.
        runs = (points[:-2] << np.uint64(42)) | (points[1:-1] << np.uint64(21)) | points[2:]
        borders = np.cumsum(lengths)[:-1]
        runs = _mixed(np.delete(runs, np.concatenate([borders - 2, borders - 1])))
        starts = np.cumsum(lengths - 2) - (lengths - 2)
        values, marks = np.empty_like(runs), spelt.marks[piece].reshape(len(padded), *self._factors.shape)
        for band, (factors, shifts) in enumerate(zip(self._factors, self._shifts, strict=True)):
            code = spelt.groups[piece].astype(np.uint64)
            for place, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
                np.multiply(runs, factor, out=values)
                np.add(values, shift, out=values)
                code = _mixed(code + (least := np.minimum.reduceat(values, starts)))
                marks[:, band, place] = _mixed(least) >> np.uint64(56)
            spelt.codes[piece, band] = code >> np.uint64(32)


def _padded(form: str) -> str:
    return f" {form} ".ljust(SHINGLE)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of a number (the finaliser of MurmurHash3), uint64."""
    numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return numbers ^ (numbers >> np.uint64(33))
