"""The map of questions: groups stay groups, the same seed gives the same map."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from data.trees.config import ReportConfig
from data.trees.map import embedding_map, shortened

CONFIG = ReportConfig.model_validate({"map_points": 60, "seed": 3})
CREATURES = [f"Murlo {one}" for one in range(30)] + [f"Zork {one}" for one in range(10)]
CAKES = [f"Cake {one}" for one in range(40)]


def planted(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors around one axis for each first word."""
    axes = ("Murlo", "Zork", "Cake")
    rows = []
    for text in texts:
        kind, number = text.split()
        row = 0.15 * np.random.default_rng([axes.index(kind), int(number)]).normal(size=24)
        row[axes.index(kind)] += 1
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def along(*rows: Sequence[float]) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda texts: np.array(rows, np.float32)


def test_planted_groups_lie_apart_on_the_map() -> None:
    found = embedding_map(CREATURES[:30], CAKES, planted, CONFIG)
    places, corpus = np.array(found["points"]), np.array(found["corpus"])
    to_own = [np.linalg.norm(places[corpus == kind] - places[corpus == kind].mean(axis=0), axis=1) for kind in (0, 1)]
    to_other = [np.linalg.norm(places[corpus == kind] - places[corpus != kind].mean(axis=0), axis=1) for kind in (0, 1)]
    assert all((own < other).all() for own, other in zip(to_own, to_other, strict=True))


def test_the_same_seed_gives_the_same_map() -> None:
    assert embedding_map(CREATURES, CAKES, planted, CONFIG) == embedding_map(CREATURES, CAKES, planted, CONFIG)


def test_another_seed_draws_other_questions() -> None:
    few = CONFIG.model_copy(update={"map_points": 10})
    first, second = (embedding_map(CREATURES, CAKES, planted, few.model_copy(update={"seed": seed}))["texts"] for seed in (0, 1))
    assert len(first) == 20 and first != second


def test_each_point_has_the_text_of_its_corpus() -> None:
    found = embedding_map(CREATURES, CAKES, planted, CONFIG)
    assert [text for text, kind in zip(found["texts"], found["corpus"], strict=True) if kind == 0] == CREATURES
    assert (found["shown"], found["of"]) == ({"ours": 40, "reference": 40}, {"ours": 40, "reference": 40})


def test_mean_cosines_to_the_nearest_question_are_exact() -> None:
    found = embedding_map(["a", "b"], ["c"], along([1, 0], [0, 1], [0.6, 0.8]), CONFIG)["nearest"]
    assert found == {"ours_to_reference": 0.7, "reference_to_ours": 0.8, "within_ours": 0.0, "within_reference": None}


def test_clusters_hold_what_was_planted_with_its_typical_questions() -> None:
    found = embedding_map(CREATURES, CAKES, planted, CONFIG)["clusters"]
    assert sum(one["ours"] for one in found) == sum(one["reference"] for one in found) == 40
    assert all(len({text.split()[0] for text in one["typical"]}) == 1 for one in found)
    assert all((one["ours"] == 0) == (one["words"] == ["cake"]) for one in found)


def test_the_question_in_the_middle_of_a_cluster_is_its_first_typical_one() -> None:
    rows = [[side + offset / 100, 0.0] for side in (-5, 5) for offset in range(-4, 5)]
    found = embedding_map([f"at {x:g}" for x, _ in rows], [], along(*rows), CONFIG)["clusters"]
    assert {one["typical"][0] for one in found} == {"at -5", "at 5"}


@pytest.mark.parametrize("number", [1, 2, 4, 5, 7])
def test_few_questions_have_a_map_of_finite_places(number: int) -> None:
    found = embedding_map(CREATURES[:number], [], planted, CONFIG)
    assert np.isfinite(found["points"]).all() and np.shape(found["points"]) == (number, 2)
    assert found["perplexity"] is None or found["perplexity"] < number
    assert found["clusters"] == []


def test_questions_that_are_all_the_same_have_a_map() -> None:
    found = embedding_map(["Murlo 1"] * 12, [], planted, CONFIG)
    assert found["points"] == [[0.0, 0.0]] * 12


def test_vectors_of_one_dimension_have_a_map() -> None:
    found = embedding_map(["a"] * 6, [], along([1], [1], [-1], [-1], [1], [-1]), CONFIG)
    assert np.isfinite(found["points"]).all()


@pytest.mark.parametrize("rows", [([1, 0],), ([1, 0], [float("nan"), 1])])
def test_vectors_that_do_not_fit_the_questions_are_an_error(rows: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="expected 2 vectors of finite numbers"):
        embedding_map(["a", "b"], [], along(*rows), CONFIG)


def test_texts_are_put_on_one_line_that_is_cut_where_it_is_too_long() -> None:
    assert shortened("a\n b ") == "a b"
    assert len(shortened("x" * 500)) == 160
