"""Overlap of turns with the questions of evaluation sets."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.config import SourceConfig
from data.containers import raw_records
from data.conversation import IMAGE_MARK, where
from data.problems import BadRecord
from data.readers import read_record
from data.trees.words import words as words_of

BOILERPLATE = 10  # a run of words that more questions than this share says nothing of any one of them
QUESTION_KEYS = ("question", "text")  # of records without turns, such as LLaVA's own question files


class EvaluationQuestions:
    """Questions that no training text may hold.

    A text overlaps when it shares `overlap` words in a row with a question, or is, as a whole, the same as a question of any length.
    Words are compared without case or punctuation, by 64-bit hashes. Runs that more than `BOILERPLATE` different questions share are left
    out ("Answer the question using a single word or phrase."). After Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C), who compare
    runs of 8 to 13 words; here 8 are the default, since questions are short.

    Args:
        questions: The questions.
        overlap: Words in a row, at least 2.
    """

    def __init__(self, questions: Iterable[str], overlap: int) -> None:
        self._weights = np.random.default_rng(0).integers(2**62, size=overlap) * 2 + 1
        runs, wholes = array("q"), set[int]()
        for question in questions:
            words = words_of(question)
            whole = hash(tuple(words))
            if words and whole not in wholes:
                wholes.add(whole)
                runs.frombytes(np.unique(self._runs(words)).tobytes())
        hashes, counts = np.unique(np.frombuffer(runs, np.int64), return_counts=True)
        self._seen, self._wholes = hashes[counts <= BOILERPLATE], frozenset(wholes)

    @classmethod
    def read(cls, files: Sequence[str], overlap: int) -> "EvaluationQuestions":
        """Reads files of questions, each as `read_questions` does."""
        return cls((question for file in files for question in read_questions(file)), overlap)

    def overlap(self, text: str) -> bool:
        """Whether a text shares a question, or a run of words, with these questions."""
        words = words_of(text)
        if hash(tuple(words)) in self._wholes:
            return True
        runs = self._runs(words)
        if not len(runs) or not len(self._seen):
            return False
        places = np.minimum(np.searchsorted(self._seen, runs), len(self._seen) - 1)
        return bool((self._seen[places] == runs).any())

    def _runs(self, words: list[str]) -> np.ndarray:
        """Hashes of all runs of so many words, int64: sums of the words' own hashes with odd weights, modulo 2**64."""
        hashes, overlap = np.fromiter(map(hash, words), np.int64, len(words)), len(self._weights)
        if len(words) < overlap:
            return hashes[:0]
        return np.lib.stride_tricks.sliding_window_view(hashes, overlap) @ self._weights


def read_questions(file: str) -> Iterator[str]:
    """Reads the questions of an evaluation set.

    Args:
        file: Plain text (.txt), one question a line; or records (JSON, JSON lines, Parquet), of which the user's turns count, or what
            stands under "question" or "text" where a record has no turns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A record or the text cannot be read, or there is no question.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"tree.filters.decontaminate: no file {file} (looked for {path.absolute()}); correct the path, or take it off the list"
        )
    found = False
    for question in _lines(path) if path.suffix == ".txt" else _records(path):
        if question.strip():
            found = True
            yield question
    if not found:
        raise ValueError(f"tree.filters.decontaminate: {file} holds no question; give a file that does, or take it off the list")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as opened:
        try:
            yield from opened
        except UnicodeDecodeError as error:
            raise ValueError(f"tree.filters.decontaminate: {path} is not UTF-8 ({error}); write it again as UTF-8") from error


def _records(path: Path) -> Iterator[str]:
    source = SourceConfig(path=str(path))
    for number, raw in raw_records(source):
        try:
            yield from _questions(raw, source, number)
        except BadRecord as problem:
            raise ValueError(f"tree.filters.decontaminate: {where(source.path, number)}: {problem.message}") from problem


def _questions(raw: Any, source: SourceConfig, number: int) -> Iterator[str]:
    if isinstance(raw, BadRecord):
        raise raw
    asked = [raw.get(key) for key in QUESTION_KEYS] if isinstance(raw, dict) and "conversations" not in raw else []
    alone = next((text for text in asked if isinstance(text, str)), None)
    if alone is not None:
        yield alone.replace(IMAGE_MARK, " ")
        return
    for turn in read_record(raw, source, number).turns:
        if turn.role == "user":
            yield turn.text.replace(IMAGE_MARK, " ")
