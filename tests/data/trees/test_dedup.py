"""Turns that say the same: verdicts, groups, order, blocks."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from data.trees.config import DedupConfig
from data.trees.dedup import Deduplicator, Verdict
from data.trees.spelling import normalise, shingles

SPELLING_ONLY = DedupConfig(embeddings="none")
BY_MEANING = DedupConfig(embeddings="states", spelling=None, threshold=0.9)


class Angles:
    """Embeds "name@angle" as a direction in the plane; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        angles = np.array([float(text.split("@")[1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def offered(dedup: Deduplicator, texts: Sequence[str], group: str = "") -> list[Verdict | None]:
    return dedup.offer([group] * len(texts), texts)


def test_differences_of_case_spacing_and_end_marks_make_an_exact_duplicate() -> None:
    assert offered(Deduplicator(SPELLING_ONLY, None), ["What is two?", "what  is\ntwo", '"What is two!"']) == [None] + 2 * [
        "exact_duplicate"
    ]


def test_numbers_inside_make_a_difference() -> None:
    assert offered(Deduplicator(SPELLING_ONLY, None), ["What is 2 + 3?", "What is 2 + 4?"]) == [None, None]


def test_one_other_letter_is_a_near_duplicate() -> None:
    first = "Can you tell me in which kind of cave the murlo sleeps at night?"
    assert offered(Deduplicator(SPELLING_ONLY, None), [first, first.replace("kind", "kinds")]) == [None, "near_duplicate"]


def test_another_creature_is_not_a_near_duplicate() -> None:
    first = "Can you tell me in which kind of cave the murlo sleeps at night?"
    assert offered(Deduplicator(SPELLING_ONLY, None), [first, first.replace("murlo", "zibber")]) == [None, None]


def test_only_a_cosine_above_the_threshold_is_the_same_meaning() -> None:
    assert offered(Deduplicator(BY_MEANING, Angles()), ["a@0", "b@0.6435", "c@0.3"]) == [None, None, "same_meaning"]


def test_spelling_null_lets_near_duplicates_through() -> None:
    first = "Can you tell me in which kind of cave the murlo sleeps at night?"
    config = DedupConfig(embeddings="none", spelling=None)
    assert offered(Deduplicator(config, None), [first, first.replace("kind", "kinds"), first]) == [None, None, "exact_duplicate"]


@pytest.mark.parametrize("together", [True, False])
def test_a_dropped_text_is_no_reason_to_drop_others(together: bool) -> None:
    dedup, texts = Deduplicator(BY_MEANING, Angles()), ["a@0", "b@0.4", "c@0.8"]  # neighbours are alike, the ends are not
    verdicts = offered(dedup, texts) if together else [offered(dedup, [text])[0] for text in texts]
    assert verdicts == [None, "same_meaning", None]


def test_the_repetition_of_a_text_that_was_dropped_is_judged_by_itself() -> None:
    verdicts = offered(Deduplicator(BY_MEANING, Angles()), ["a@0", "b@0.4", "B@0.4", "b@0.4"])
    assert verdicts == [None, "same_meaning", "same_meaning", "same_meaning"]


def test_groups_do_not_mix() -> None:
    dedup = Deduplicator(DedupConfig(embeddings="states", threshold=0.9), Angles())
    long = "can you tell me in which kind of cave the murlo sleeps at night@0"
    texts = [long, long, "other@0.01", long.replace("kind", "kinds")]
    assert dedup.offer(["1", "2", "3", "4"], texts) == [None] * 4
    assert dedup.offer(["5"] * 4, texts) == [None, "exact_duplicate", "same_meaning", "near_duplicate"]


def test_what_needs_a_vector_is_embedded_in_one_call() -> None:
    embed = Angles()
    dedup = Deduplicator(BY_MEANING, embed)
    offered(dedup, ["a@0", "b@1"])
    dedup.offer(["", "", "x", "", "x"], ["A@0", "c@2", "a@0", "c@2", "d@3"])
    assert embed.calls == [["a@0", "b@1"], ["c@2", "a@0", "d@3"]]


def test_without_a_threshold_meaning_is_not_compared() -> None:
    assert offered(Deduplicator(DedupConfig(embeddings="states", threshold=None), None), ["a@0", "b@0"]) == [None, None]


def test_comparing_meaning_without_an_embedder_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"tree\.dedup\.embeddings is 'states', but nothing here embeds"):
        Deduplicator(DedupConfig(embeddings="states"), None)


@pytest.mark.parametrize(
    "vectors", [np.full((2, 3), 0.2, np.float32), np.full((2, 3), np.nan, np.float32), np.eye(3, dtype=np.float32), np.eye(2)]
)
def test_an_embedder_that_gives_no_unit_vectors_is_an_error(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"see tree\.dedup\.embeddings"):
        offered(Deduplicator(DedupConfig(embeddings="states"), lambda texts: vectors), ["first text", "second one"])


def test_a_text_without_a_group_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 texts came with 1 groups"):
        Deduplicator(SPELLING_ONLY, None).offer([""], ["a", "b"])


def test_nothing_offered_is_nothing_kept() -> None:
    dedup = Deduplicator(BY_MEANING, Angles())
    dedup.remember([], [])
    assert dedup.offer([], []) == []


WORDS = "what where does the murlo murla eat eats live lives in a cave caves at night".split()
DIMENSION = 24


def corpus(texts: int) -> tuple[list[str], list[str]]:
    """Groups with texts, many of them again, misspelt, or said in other words."""
    draw = np.random.default_rng(0)
    made: list[str] = []
    for _ in range(texts):
        text = " ".join(draw.choice(WORDS, 14))
        if made and draw.random() < 0.6:
            old = made[draw.integers(len(made))]
            text = (old.upper(), old.replace(" ", "  ", 1), old + "s", old.replace("e", "i", 1), f"{old} #{draw.integers(40)}")[
                draw.integers(5)
            ]
        made.append(text)
    return [("few", "some", "many")[min(kind, 2)] for kind in draw.integers(12, size=texts)], made


def in_few_words(texts: Sequence[str]) -> np.ndarray:
    """A vector by the first four words, with a little noise by all."""
    vectors = np.array([vector_of(text) for text in texts]).reshape(-1, DIMENSION)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@cache
def vector_of(text: str) -> np.ndarray:
    parts = " ".join(text.casefold().split()[:4]), text
    direction, noise = (np.random.default_rng(list(part.encode())).standard_normal(DIMENSION) for part in parts)
    return direction + 0.12 * noise


def reference(groups: Sequence[str], texts: Sequence[str], config: DedupConfig) -> list[Verdict | None]:
    """Every text compared with every kept one of its group."""
    assert config.spelling is not None and config.threshold is not None
    kept: list[tuple[str, str, np.ndarray]] = []
    verdicts: list[Verdict | None] = []
    for group, text, vector in zip(groups, texts, in_few_words(texts), strict=True):
        form, mine = normalise(text), shingles(normalise(text))
        others = [(other, shingles(other), cosine) for member, other, cosine in kept if member == group]
        verdict: Verdict | None = None
        if any(form == other for other, _, _ in others):
            verdict = "exact_duplicate"
        elif any(len(mine & theirs) / len(mine | theirs) > config.spelling for _, theirs, _ in others):
            verdict = "near_duplicate"
        elif any(float(vector.astype(float) @ other.astype(float)) > config.threshold for _, _, other in others):
            verdict = "same_meaning"
        else:
            kept.append((group, form, vector))
        verdicts.append(verdict)
    return verdicts


GROUPS, TEXTS = corpus(900)
CONFIG = DedupConfig(embeddings="states", spelling=0.85, threshold=0.975)
LIMIT = 90  # members of a group compared one with each: "many" goes far beyond


def in_blocks(dedup: Deduplicator, block: int, first: int = 0) -> list[Verdict | None]:
    return [
        verdict
        for start in range(first, len(TEXTS), block)
        for verdict in dedup.offer(GROUPS[start : start + block], TEXTS[start : start + block])
    ]


def test_the_cascade_decides_as_comparing_each_with_each_does() -> None:
    verdicts = in_blocks(Deduplicator(CONFIG, in_few_words), 100)
    assert verdicts == reference(GROUPS, TEXTS, CONFIG)
    assert {"exact_duplicate", "near_duplicate", "same_meaning", None} == set(verdicts)


@cache
def one_by_one(limit: int) -> tuple[Verdict | None, ...]:
    return tuple(in_blocks(Deduplicator(CONFIG, in_few_words, limit), 1))


@pytest.mark.parametrize("limit", [LIMIT, 10_000])
@pytest.mark.parametrize("block", [7, 64, 900])
def test_blocks_of_any_size_decide_as_one_by_one(block: int, limit: int) -> None:
    assert tuple(in_blocks(Deduplicator(CONFIG, in_few_words, limit), block)) == one_by_one(limit)


@pytest.mark.parametrize("first", [60, 500])
def test_remembered_members_decide_as_offered_ones(first: int) -> None:
    offered, remembered = (Deduplicator(CONFIG, in_few_words, LIMIT) for _ in range(2))
    kept = [place for place, verdict in enumerate(in_blocks(offered, 100)[:first]) if verdict is None]
    remembered.remember([GROUPS[place] for place in kept], [TEXTS[place] for place in kept])
    assert in_blocks(remembered, 50, first) == in_blocks(Deduplicator(CONFIG, in_few_words, LIMIT), 50)[first:]


def test_recall_is_told_for_groups_beyond_the_exact_limit_only() -> None:
    dedup = Deduplicator(CONFIG, in_few_words, LIMIT)
    in_blocks(dedup, 100)
    assert set(dedup.recall(50)) == {"many"}
