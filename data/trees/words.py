"""Which words a corpus speaks with, how many different ones."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

UNSPACED = "\u3040-\u30ff\u3400-\u9fff"  # kana, Han: written without blanks between words
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
CONTENT_WORD = re.compile(rf"(?=([{UNSPACED}]{{2}}))|([^\W\d_{UNSPACED}]{{2,}})")
MOST_WORDS = 20_000  # that the shares of different words are counted over

FUNCTION_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before being between both but by can could did do does doing "
    "don down during each else ever few for from further get give had has have having he her here hers him his how i if in into is it its "
    "just let like ll made make many may me might mine more most much must my need never no nor not now of off on once one only or other "
    "our out over own per please re same shall she should since so some such tell than that the their them then there these they thing "
    "things this those through to too two under until up us use used using ve very want was way we were what when where which while who "
    "whom whose why will with within without would yes you your yours".split()
)
"""English words that say nothing about a topic."""


def words(text: str) -> list[str]:
    """The words of a text in lower case; where a script writes none apart (Han, kana), its characters."""
    return WORD.findall(text.casefold())


def content_words(text: str) -> set[str]:
    """Different words of two letters or more that are no English function words; of Han and kana, pairs of characters."""
    found = {pair or word for pair, word in CONTENT_WORD.findall(text.casefold())}
    return found - FUNCTION_WORDS


def frequent_words(texts: Iterable[str], most: int) -> dict[str, int]:
    """Content words by the number of texts that hold them, most frequent first, ties in order of the alphabet."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(content_words(text))
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most])


def distinct(corpora: Sequence[Sequence[str]], seed: int) -> list[dict[str, Any]]:
    """Share of different words, of different pairs of words, in each corpus.

    The shares fall with the size of a text. So every corpus is shuffled, then cut after the same number of words: those of the shortest,
    at most `MOST_WORDS`.

    Args:
        corpora: The texts of each.
        seed: Shuffles them.

    Returns:
        For each corpus `words`, how many were looked at; `distinct_1`, `distinct_2`: shares in [0, 1], None where there was nothing.
    """
    parts = [_first_words(corpus, seed) for corpus in corpora]
    room = min((sum(map(len, part)) for part in parts), default=0)
    return [_shares(part, room) for part in parts]


def _first_words(texts: Sequence[str], seed: int) -> list[list[str]]:
    found: list[list[str]] = []
    total = 0
    for at in np.random.default_rng(seed).permutation(len(texts)):
        if total >= MOST_WORDS:
            break
        found.append(words(texts[at])[: MOST_WORDS - total])
        total += len(found[-1])
    return found


def _shares(texts: Sequence[Sequence[str]], room: int) -> dict[str, Any]:
    """Shares over the first `room` words; no pair reaches from one text into the next."""
    cut = list(_cut(texts, room))
    single = [word for text in cut for word in text]
    pairs = [pair for text in cut for pair in zip(text, islice(text, 1, None), strict=False)]
    return {"words": len(single), "distinct_1": _different(single), "distinct_2": _different(pairs)}


def _cut(texts: Sequence[Sequence[str]], room: int) -> Iterator[Sequence[str]]:
    for text in texts:
        yield text[:room]
        room -= len(text[:room])


def _different(grams: Sequence[Any]) -> float | None:
    return round(len(set(grams)) / len(grams), 4) if grams else None
