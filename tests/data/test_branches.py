"""Paths of a tree in one run of tokens: who sees whom, what each token weighs, which dialogues are put together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.branches import Branches, join, merge, shared_tokens
from data.packing import pack

Path = tuple[int, ...]
some_paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=12)
sorted_paths = some_paths.map(sorted)  # depth first; equal paths, paths that begin others


def merged(paths: list[Path], weights: list[list[float]] | None = None) -> Branches:
    given = weights if weights is not None else [[1.0] * len(path) for path in paths]
    return merge([np.array(path, np.int32) for path in paths], [np.array(one, np.float32) for one in given])


def seen_by(found: Branches, token: int) -> list[int]:
    """The tokens that a token sees, itself the last."""
    return [place for place in range(token + 1) if token < found.visible_until[place]]


def prefix_of(found: Branches, token: int) -> Path:
    return tuple(found.input_ids[seen_by(found, token)].tolist())


def prefixes(paths: list[Path]) -> Counter[Path]:
    return Counter(path[: size + 1] for path in paths for size in range(len(path)))


@settings(max_examples=200, deadline=None)
@given(some_paths)
def test_every_path_sees_its_own_tokens_and_no_others(paths: list[Path]) -> None:
    found = merged(paths)
    assert {prefix_of(found, token) for token in range(len(found.input_ids))} == set(prefixes(paths))


@settings(max_examples=200, deadline=None)
@given(sorted_paths)
def test_of_sorted_paths_every_prefix_stands_once(paths: list[Path]) -> None:
    found = merged(paths)
    stand = [prefix_of(found, token) for token in range(len(found.input_ids))]
    assert len(stand) == len(set(stand)) == len(prefixes(paths))


@settings(max_examples=200, deadline=None)
@given(some_paths)
def test_positions_and_predictors_are_those_of_the_path(paths: list[Path]) -> None:
    found = merged(paths)
    for token in range(len(found.input_ids)):
        path = seen_by(found, token)
        assert found.positions[token] == len(path) - 1
        assert found.predictors[token] == (path[-2] if len(path) > 1 else token)


@settings(max_examples=200, deadline=None)
@given(sorted_paths, st.data())
def test_a_token_weighs_what_all_paths_that_hold_it_weigh_together(paths: list[Path], data: st.DataObject) -> None:
    weights = [data.draw(st.lists(st.sampled_from((0.0, 0.25, 1.0)), min_size=len(path), max_size=len(path))) for path in paths]
    found, expected = merged(paths, weights), Counter[Path]()
    for path, row in zip(paths, weights, strict=True):
        expected.update({path[: size + 1]: weight for size, weight in enumerate(row)})
    assert {prefix_of(found, token): weight for token, weight in enumerate(found.weights.tolist())} == expected


@settings(max_examples=100, deadline=None)
@given(some_paths)
def test_in_any_order_the_weights_sum_to_those_of_the_paths(paths: list[Path]) -> None:
    assert merged(paths).weights.sum() == sum(map(len, paths))


def test_thirds_of_three_paths_weigh_one() -> None:
    assert merged([(1, 2), (1, 3), (1, 4)], [[1 / 3, 1.0]] * 3).weights.tolist() == [1.0] * 4


@pytest.mark.parametrize(("paths", "alone"), [([(1, 2), (1, 2)], True), ([(1,), (1, 2)], True), ([(1, 2), (1, 3)], False)])
def test_a_run_without_a_fork_is_one_path(paths: list[Path], alone: bool) -> None:
    assert merged(paths).is_one_path is alone


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(("0.0", "0.2.0", "1.0", "10.0")), st.lists(st.integers(0, 1), min_size=1)), min_size=1), st.data()
)
def test_rows_share_what_they_begin_with_below_one_first_question(drawn: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    from datasets import Dataset

    table = Dataset.from_dict({"id": [name for name, _ in drawn], "input_ids": [path for _, path in drawn]})
    rows = sorted(data.draw(st.sets(st.integers(0, len(drawn) - 1), min_size=1)))
    expected = [0]
    for one, other in zip(rows, rows[1:], strict=False):
        (name, path), (next_name, next_path) = drawn[one], drawn[other]
        common = sum(path[: size + 1] == next_path[: size + 1] for size in range(min(len(path), len(next_path))))
        expected.append(common if name.partition(".")[0] == next_name.partition(".")[0] else 0)
    assert shared_tokens(table, np.array(rows)).tolist() == expected


# --- which dialogues are put together --------------------------------------------------------------------------------

dialogues = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=60)


def lengths(drawn: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([size for size, _ in drawn])
    before = np.concatenate([[0], tokens[:-1]])
    return tokens, (np.minimum(tokens, before) * np.array([share for _, share in drawn])).astype(np.int64)


@settings(max_examples=200, deadline=None)
@given(dialogues, st.integers(40, 200))
def test_units_hold_every_dialogue_once_within_the_length_of_a_row(drawn: list[tuple[int, float]], capacity: int) -> None:
    bounds, sizes = join(*lengths(drawn), capacity)
    assert bounds[0] == 0 and bounds[-1] == len(drawn)
    assert (np.diff(bounds) > 0).all()
    assert sizes.max() <= capacity


@settings(max_examples=200, deadline=None)
@given(dialogues, st.integers(40, 200))
def test_a_unit_has_the_tokens_that_its_dialogues_do_not_share(drawn: list[tuple[int, float]], capacity: int) -> None:
    tokens, shared = lengths(drawn)
    bounds, sizes = join(tokens, shared, capacity)
    for size, first, last in zip(sizes, bounds, bounds[1:], strict=False):
        assert size == tokens[first:last].sum() - shared[first + 1 : last].sum()


def test_dialogues_that_share_nothing_stay_apart() -> None:
    assert join(np.array([5, 5, 5]), np.array([0, 0, 2]), 100)[0].tolist() == [0, 1, 3]


def test_trees_a_little_longer_than_half_a_row_are_cut_where_that_fills_rows() -> None:
    tokens, shared = np.full(4000, 400), np.tile([0, *[200] * 9], 400)  # 2,200 tokens below each first question
    bounds, sizes = join(tokens, shared, 4096)
    whole = np.full(400, 2200)
    assert len(pack(sizes, 4096, seed=0).rows) < 0.8 * len(pack(whole, 4096, seed=0).rows)
    assert len(bounds) > 401


def test_trees_that_fill_a_row_stay_whole() -> None:
    tokens, shared = np.full(4000, 580), np.tile([0, *[190] * 9], 400)  # 4,090 tokens below each first question
    assert len(join(tokens, shared, 4096)[0]) == 401
