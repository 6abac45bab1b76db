"""Texts of one meaning by their vectors: exact up to a limit, hashed beyond."""

import numpy as np
import pytest

from data.trees import hashes
from data.trees.hashes import Hashes
from data.trees.meaning import CHUNK, Meaning, beside

THRESHOLD = 0.975


def unit(rows: int, seed: int, around: float = 0.0, dimension: int = 48) -> np.ndarray:
    """Directions in clusters of some ten; with `around` they lie that much to one side of the origin."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, rows // 10), dimension))
    vectors = centres[draw.integers(len(centres), size=rows)] + 0.8 * draw.standard_normal((rows, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:, 0] += around
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def planted(rows: int, around: float = 0.0) -> np.ndarray:
    """Vectors, a tenth of which lie beside an earlier one, some a little within the threshold, some a little beyond."""
    draw, vectors = np.random.default_rng(7), unit(rows, 0, around)
    for row in range(100, rows, 10):
        old = int(draw.integers(row))
        vectors[row] = beside(vectors[old : old + 1], draw.uniform(0.96, 0.999), draw)[0]
    return vectors


def known(meaning: Meaning, vectors: np.ndarray, most: int = CHUNK) -> np.ndarray:
    """Verdicts of vectors offered in chunks, without regard to order within a chunk but for what was kept."""
    verdicts = []
    first = 0
    while first < len(vectors):
        chunk = vectors[first : first + min(most, meaning.room or most)]
        found = meaning.compare(chunk)
        kept = list[int]()
        for row in range(len(chunk)):
            verdicts.append(bool(found.known[row]) or any(other in kept for other in found.near[row]))
            if not verdicts[-1]:
                kept.append(row)
        meaning.add(found, kept)
        first += len(chunk)
    return np.array(verdicts)


@pytest.mark.parametrize("around", [0.0, 1.0])
def test_hashing_finds_the_planted_duplicates_that_comparing_with_all_finds(around: float) -> None:
    vectors = planted(4000, around)
    hashed, exact = Meaning(THRESHOLD, 300), Meaning(THRESHOLD, 10**6)
    verdicts, expected = known(hashed, vectors), known(exact, vectors)
    assert hashed.hashed and not exact.hashed
    assert 100 < expected.sum() < 400
    assert (verdicts & expected).sum() >= 0.995 * expected.sum()


def test_what_hashing_finds_is_above_the_threshold() -> None:
    vectors = planted(3000)
    verdicts = known(meaning := Meaning(THRESHOLD, 300), vectors)
    kept = vectors[~verdicts].astype(np.float64)
    assert meaning.hashed
    assert all((kept @ vectors[row]).max() > THRESHOLD for row in np.flatnonzero(verdicts))


@pytest.mark.parametrize("around", [0.0, 1.0])
def test_right_at_the_threshold_at_most_five_of_a_thousand_are_missed(around: float) -> None:
    meaning = Meaning(THRESHOLD, 500)
    meaning.remember(unit(4000, 1, around))
    recall = meaning.recall(2000, seed=0)
    assert recall.planted == 2000
    assert recall.found >= 0.995 * recall.planted


def test_recall_tells_when_too_few_tables_miss_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "MISSED", 0.5)
    meaning = Meaning(THRESHOLD, 300)
    vectors = planted(4000)
    known(meaning, vectors)
    recall = meaning.recall(4000, seed=0)
    assert recall.found < 0.8 * recall.planted
    assert recall.missed > 0


def test_what_hashing_misses_does_not_depend_on_what_came_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "MISSED", 0.5)
    vectors = planted(2000)
    one_by_one = known(Meaning(THRESHOLD, 300), vectors, most=1)
    assert np.array_equal(known(Meaning(THRESHOLD, 300), vectors), one_by_one)
    assert one_by_one.sum() < known(Meaning(THRESHOLD, 10**6), vectors).sum()


def test_vectors_on_one_side_of_the_origin_rarely_meet_by_chance() -> None:
    vectors = unit(1500, 6, around=2.0)
    assert (vectors @ vectors.T).mean() > 0.75
    index = Hashes(THRESHOLD, vectors)
    described = index.describe(vectors)
    index.add(described)
    assert index.worthwhile
    assert len(index.find(described)[0]) < 0.05 * len(vectors) ** 2


def test_recall_counts_members_that_comparing_with_all_would_have_dropped() -> None:
    meaning = Meaning(THRESHOLD, 100)
    vectors = unit(400, 2)
    meaning.remember(np.concatenate([vectors, vectors[:30]]))  # as if nothing had found the last thirty
    assert meaning.recall(430, seed=0).missed == 30


def test_nothing_is_measured_where_every_text_is_compared_with_every_member() -> None:
    meaning = Meaning(THRESHOLD, 1000)
    meaning.remember(unit(500, 0))
    assert meaning.recall(100, seed=0).planted == 0


def test_vectors_that_are_all_alike_are_still_compared_with_every_member() -> None:
    vectors = planted(1500, around=3.5)
    narrow, exact = Meaning(THRESHOLD, 200), Meaning(THRESHOLD, 10**6)
    verdicts = known(narrow, vectors)
    assert not narrow.hashed
    assert np.array_equal(verdicts, known(exact, vectors))


def test_a_vector_has_one_code_whatever_comes_with_it() -> None:
    # Many projections of such vectors are sums of as many equal numbers with either sign: what rounding leaves of them has any sign.
    vectors = np.sign(unit(700, 3, dimension=384)) / np.float32(384**0.5)
    one = Hashes(THRESHOLD, np.concatenate([vectors, -vectors]))
    together = one.describe(vectors)
    for rows in (slice(0, 1), slice(5, 12), slice(100, 433)):
        alone = one.describe(vectors[rows])
        assert np.array_equal(alone.codes, together.codes[rows]) and np.array_equal(alone.sketches, together.sketches[rows])


def test_vectors_meet_among_themselves_as_they_do_among_members() -> None:
    vectors = planted(1000)
    index = Hashes(THRESHOLD, vectors)
    described = index.describe(vectors)
    index.add(described)
    found = {(row, member) for row, member in zip(*(part.tolist() for part in index.find(described)), strict=True) if row < member}
    one, other = np.triu_indices(len(vectors), 1)
    met = index.meet(described[one], described[other])
    assert found == set(zip(one[met].tolist(), other[met].tolist(), strict=True))


def test_the_way_of_comparing_changes_at_the_same_member_however_they_came() -> None:
    vectors = unit(900, 4)
    by_remembering, by_offering = Meaning(THRESHOLD, 300), Meaning(THRESHOLD, 300)
    by_remembering.remember(vectors[~known(by_offering, vectors)])
    asked = planted(900)[300:600]
    assert by_remembering.size == by_offering.size
    assert np.array_equal(by_remembering.compare(asked).known, by_offering.compare(asked).known)


def test_planted_vectors_have_the_cosine_that_was_asked_for() -> None:
    vectors = unit(50, 5)
    cosines = (vectors * beside(vectors, 0.98, np.random.default_rng(0))).sum(axis=1)
    assert np.allclose(cosines, 0.98, atol=1e-5)
