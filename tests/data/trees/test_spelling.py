"""Texts that are spelt alike: shingles, bands, the index."""

import string

import numpy as np
import pytest

from data.trees.spelling import MISSED, Spelling, bands, normalise, shingles


@pytest.mark.parametrize("text", ["What is  two?", "what is two", ' "What is two?" ', "What\nis two ?", "Ｗｈａｔ is two"])
def test_spelling_of_the_same_words_makes_no_difference(text: str) -> None:
    assert normalise(text) == "what is two"


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_pairs_at_the_threshold_share_a_band_nearly_always(threshold: float) -> None:
    number, width = bands(threshold)
    assert (1 - threshold**width) ** number <= MISSED


def kept_and_known(spelling: Spelling, texts: list[str], block: int = 50) -> list[bool]:
    """Whether each is like one before; all are kept that are not like one kept before their block."""
    verdicts = []
    for first in range(0, len(texts), block):
        spelt = spelling.describe([0] * len(texts[first : first + block]), texts[first : first + block])
        known, near = spelling.compare(spelt)
        seen = list[str]()
        for row, text in enumerate(spelt.forms):
            verdicts.append(bool(known[row]) or any(other in seen for other in near[row]))
            if not verdicts[-1]:
                seen.append(text)
        spelling.add(spelt, [spelt.forms.index(text) for text in seen])
    return verdicts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_index_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    draw = np.random.default_rng(0)
    words = ["what", "where", "does", "the", "murlo", "murla", "eat", "eats", "live", "lives", "in", "a", "cave", "caves"]
    texts = list(dict.fromkeys(" ".join(draw.choice(words, 6)) for _ in range(400)))
    kept, expected = list[frozenset[str]](), list[bool]()
    for text in texts:
        mine = shingles(text)
        expected.append(any(len(mine & other) / len(mine | other) > threshold for other in kept))
        if not expected[-1]:
            kept.append(mine)
    assert kept_and_known(Spelling(threshold), texts) == expected
    assert {True, False} == set(expected)


def test_of_pairs_right_above_the_threshold_at_most_two_in_a_thousand_are_missed() -> None:
    draw = np.random.default_rng(0)
    spelling, pairs = Spelling(0.9), 3000
    texts = ["".join(draw.choice(list(string.ascii_lowercase), 62)) for _ in range(pairs)]
    others = [text[:30] + "?" + text[31:] for text in texts]
    similarities = [
        len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other)) for one, other in zip(texts, others, strict=True)
    ]
    assert 0.9 < min(similarities) < np.median(similarities) < 0.91
    spelling.add(spelling.describe(range(pairs), texts), range(pairs))
    known, _ = spelling.compare(spelling.describe(range(pairs), others))
    assert (~known).sum() <= 2 * pairs / 1000


def test_pairs_right_below_the_threshold_are_all_let_through() -> None:
    spelling = Spelling(0.9)
    text = "".join(np.random.default_rng(0).choice(list(string.ascii_lowercase), 50))
    spelling.add(spelling.describe([0], [text]), [0])
    known, _ = spelling.compare(spelling.describe([0] * 48, [text[:place] + "?" + text[place + 1 :] for place in range(1, 49)]))
    assert not known.any()


def test_short_texts_are_compared_like_others() -> None:
    spelling = Spelling(0.35)
    assert kept_and_known(spelling, ["", "a", "ab", "abc", "abcd"], block=2) == [False, False, False, False, True]


def test_characters_beyond_the_basic_plane_are_told_apart() -> None:
    spelling = Spelling(0.4)
    assert kept_and_known(spelling, ["🦊🦊🦊🦊", "🦉🦉🦉🦉", "🦊🦊🦊🦊🦊"]) == [False, False, True]


def test_a_text_has_one_code_whatever_comes_with_it() -> None:
    spelling = Spelling(0.9)
    texts = [f"{number} " * (number % 90) for number in range(2000)]
    together = spelling.describe([3] * len(texts), texts).codes
    assert all(np.array_equal(together[row : row + 1], spelling.describe([3], [texts[row]]).codes) for row in range(0, 2000, 97))


def test_equal_texts_of_two_groups_share_no_band() -> None:
    codes = Spelling(0.9).describe([0, 1], ["what does the murlo eat"] * 2).codes
    assert not (codes[0] == codes[1]).any()


def test_no_member_is_forgotten_when_the_tables_grow() -> None:
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list(string.ascii_lowercase), 40)) for _ in range(6000)]
    spelling = Spelling(0.9)
    assert not any(kept_and_known(spelling, texts, block=700))
    known, _ = spelling.compare(spelling.describe([0] * len(texts), texts))
    assert known.all()
