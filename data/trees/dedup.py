"""Duplicates among turns are found exactly first, then by the cosine of their vectors."""

import re
import unicodedata
from typing import Literal

import numpy as np

Verdict = Literal["exact_duplicate", "near_duplicate"]

_EDGE_PUNCTUATION = " .!?…,;:\"'“”‘’"


def normalise(text: str) -> str:
    """`text` without differences of case, width, spacing, quotes around it or punctuation at its ends."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip(_EDGE_PUNCTUATION)


class Seen:
    """The kept members of one group; of two that are the same the first one offered stays.

    Near-duplicates are searched in exact blocks: time grows with the square of the group.
    """

    def __init__(self, threshold: float | None) -> None:
        """Compares cosines with `threshold`; exact duplicates only when None."""
        self.threshold = threshold
        self.texts: set[str] = set()
        self._vectors = np.empty((0, 0), np.float32)
        self._size = 0

    def __contains__(self, text: str) -> bool:
        """Whether an exact duplicate of `text` was kept."""
        return normalise(text) in self.texts

    def offer(self, text: str, vector: np.ndarray | None = None) -> Verdict | None:
        """Keeps a text, or says why not.

        Args:
            text: The turn.
            vector: Its unit vector, float32 [dimension]; needed when there is a threshold.

        Returns:
            None when the text is new, and from now on known.
        """
        key = normalise(text)
        if key in self.texts:
            return "exact_duplicate"
        if self.threshold is not None:
            assert vector is not None, "a threshold needs vectors"
            if self._size and float((self._vectors[: self._size] @ vector).max()) > self.threshold:
                return "near_duplicate"
            self._append(vector)
        self.texts.add(key)
        return None

    def _append(self, vector: np.ndarray) -> None:
        if self._size == len(self._vectors):
            grown = np.empty((max(64, 2 * self._size), len(vector)), np.float32)
            grown[: self._size] = self._vectors[: self._size] if self._size else 0
            self._vectors = grown
        self._vectors[self._size] = vector
        self._size += 1
