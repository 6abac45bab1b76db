import numpy as np
import pytest

from data.trees.dedup import AlikeShingles, AlikeVectors, Seen, normalise, shingles


@pytest.mark.parametrize("text", ["What is  two?", "what is two", ' "What is two?" ', "What\nis two ?"])
def test_spelling_of_the_same_words_makes_no_difference(text):
    assert normalise(text) == "what is two"


def test_numbers_inside_make_a_difference():
    seen = Seen()
    assert seen.offer("What is 2 + 3?") is None
    assert seen.offer("What is 2 + 4?") is None
    assert seen.offer("what is 2 + 3") == "exact_duplicate"


def test_only_a_cosine_above_the_threshold_is_a_near_duplicate():
    seen = Seen(AlikeVectors(0.9))
    assert seen.offer("a", np.array([1.0, 0.0], np.float32)) is None
    assert seen.offer("b", np.array([0.8, 0.6], np.float32)) is None
    assert seen.offer("c", np.array([0.95, 0.3122], np.float32)) == "near_duplicate"


def test_a_dropped_member_is_no_reason_to_drop_others():
    seen = Seen(AlikeVectors(0.9))
    angles = (0.0, 0.4, 0.8)  # neighbours are alike, the ends are not
    verdicts = [seen.offer(str(angle), np.array([np.cos(angle), np.sin(angle)], np.float32)) for angle in angles]
    assert verdicts == [None, "near_duplicate", None]


def test_many_members_are_all_remembered():
    seen = Seen(AlikeVectors(0.999))
    vectors = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert all(seen.offer(str(number), vector) is None for number, vector in enumerate(vectors))
    assert all(seen.offer(f"again {number}", vector) == "near_duplicate" for number, vector in enumerate(vectors))


def test_one_other_letter_is_a_near_duplicate_but_another_creature_is_not():
    seen = Seen(AlikeShingles(0.9))
    assert seen.offer("Can you tell me in which kind of cave the murlo sleeps at night?") is None
    assert seen.offer("Can you tell me in which kinds of cave the murlo sleeps at night?") == "near_duplicate"
    assert seen.offer("Can you tell me in which kind of cave the zibber sleeps at night?") is None


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_prefix_filtering_finds_what_comparing_all_pairs_finds(threshold):
    random = np.random.default_rng(0)
    words = ["what", "where", "does", "the", "murlo", "murla", "eat", "eats", "live", "lives", "in", "a", "cave", "caves"]
    texts = [" ".join(random.choice(words, 6)) for _ in range(400)]
    alike, kept, verdicts, expected = AlikeShingles(threshold), [], [], []
    for text in texts:
        mine = shingles(text)
        expected.append(any(len(mine & other) / len(mine | other) > threshold for other in kept))
        verdicts.append(alike.knows(text))
        if not expected[-1]:
            kept.append(mine)
            alike.add(text)
    assert verdicts == expected
    assert any(expected)
    assert not all(expected)
