"""Packing: each sample once, full rows, random order, the same rows for a longer order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.packing import GIVE_UP, WINDOW, Packing, advice, fill, pack


def like_llava(samples: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    text = draw.lognormal(np.log(238), 0.7, samples)
    return np.clip(np.where(draw.random(samples) < 0.06, 2 * text, 576 + text), 8, 2048).astype(np.int64)


def tokens_of_rows(packing: Packing, lengths: np.ndarray) -> np.ndarray:
    return np.add.reduceat(lengths[packing.samples], packing.rows[:-1])


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return like_llava(5 * WINDOW + WINDOW // 3)


@pytest.fixture(scope="module")
def packing(lengths: np.ndarray) -> Packing:
    return pack(lengths, 4096, seed=0)


capacities = st.integers(1, 300)
packable = capacities.flatmap(lambda most: st.tuples(st.lists(st.integers(1, most), max_size=400), st.just(most)))


@settings(max_examples=150, deadline=None)
@given(packable, st.integers(0, 3))
def test_every_sample_is_in_exactly_one_row(drawn: tuple[list[int], int], seed: int) -> None:
    lengths, capacity = drawn
    packing = pack(np.array(lengths, np.int64), capacity, seed=seed)
    assert sorted(packing.samples.tolist()) == list(range(len(lengths)))
    assert packing.rows[0] == 0 and packing.rows[-1] == len(lengths)


@settings(max_examples=150, deadline=None)
@given(packable.filter(lambda drawn: bool(drawn[0])))
def test_no_row_is_empty_or_longer_than_the_capacity(drawn: tuple[list[int], int]) -> None:
    lengths, capacity = drawn
    packing = pack(np.array(lengths), capacity, seed=0)
    assert np.diff(packing.rows).min() > 0
    assert tokens_of_rows(packing, np.array(lengths)).max() <= capacity


SHAPES = {
    "one length that leaves a gap": lambda draw, samples: np.full(samples, 1000),
    "one length that leaves none": lambda draw, samples: np.full(samples, 1024),
    "as long as a row": lambda draw, samples: np.full(samples, 4096),
    "of one token": lambda draw, samples: np.ones(samples, np.int64),
    "short": lambda draw, samples: draw.integers(1, 60, samples),
    "longer than half a row": lambda draw, samples: draw.integers(2049, 4097, samples),
    "narrow": lambda draw, samples: draw.integers(900, 1001, samples),
    "even": lambda draw, samples: 2 * draw.integers(300, 500, samples),
    "long or short": lambda draw, samples: np.where(draw.random(samples) < 0.5, 2049, 1000),
    "anything": lambda draw, samples: draw.integers(1, 4097, samples),
}


def rows_of_first_fit(lengths: np.ndarray, capacity: int, batch: int = 1000) -> int:
    rows = 0
    for first in range(0, len(lengths), batch):
        rooms: list[int] = []
        for length in sorted(lengths[first : first + batch].tolist(), reverse=True):
            place = next((number for number, room in enumerate(rooms) if room >= length), None)
            if place is None:
                rooms.append(capacity - length)
            else:
                rooms[place] -= length
        rows += len(rooms)
    return rows


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_no_more_than_first_fit_decreasing_makes_of_batches(shape: str) -> None:
    lengths = SHAPES[shape](np.random.default_rng(0), 6000)
    assert len(pack(lengths, 4096, seed=0).rows) - 1 <= rows_of_first_fit(lengths, 4096)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_is_packed_once_over_several_windows_of_any_shape(shape: str) -> None:
    lengths = SHAPES[shape](np.random.default_rng(0), 2 * WINDOW + 5)
    packing = pack(lengths, 4096, seed=0)
    assert np.array_equal(np.sort(packing.samples), np.arange(len(lengths)))
    assert tokens_of_rows(packing, lengths).max() <= 4096


@pytest.mark.parametrize(("capacity", "least"), [(4096, 0.998), (8192, 0.9998)])
def test_rows_of_samples_like_llavas_are_full(lengths: np.ndarray, capacity: int, least: float) -> None:
    assert fill(pack(lengths, capacity, seed=0), lengths, capacity) >= least


def test_no_row_of_an_earlier_window_has_a_gap_where_lengths_are_varied(lengths: np.ndarray, packing: Packing) -> None:
    earlier = int(4.5 * WINDOW * lengths.mean() / 4096)
    assert (tokens_of_rows(packing, lengths)[:earlier] == 4096).all()


def test_every_stretch_of_rows_has_samples_of_mean_length(lengths: np.ndarray, packing: Packing) -> None:
    rows = len(packing.rows) - 1
    for tenth in range(10):
        members = packing.samples[packing.rows[rows * tenth // 10] : packing.rows[rows * (tenth + 1) // 10]]
        assert abs(lengths[members].mean() / lengths.mean() - 1) < 0.03


def test_fuller_rows_do_not_come_first() -> None:
    lengths = np.random.default_rng(0).integers(2049, 4097, WINDOW)
    tokens = tokens_of_rows(pack(lengths, 4096, seed=0), lengths)
    first, second = np.array_split(tokens, 2)
    assert abs(first.mean() / second.mean() - 1) < 0.01


def test_a_mixtures_shares_hold_over_every_stretch_of_rows(packing: Packing) -> None:
    text = packing.samples % 10 == 0
    shares = [part.mean() for part in np.array_split(text, 60)]
    assert min(shares) > 0.08 and max(shares) < 0.12


def test_rows_keep_to_their_part_of_the_order(packing: Packing) -> None:
    window = packing.samples // WINDOW
    assert np.mean(np.maximum.accumulate(window) - window <= 1) > 0.998


def test_neighbours_of_the_order_seldom_share_a_row(packing: Packing) -> None:
    row_of = np.empty(len(packing.samples), np.int64)
    row_of[packing.samples] = np.repeat(np.arange(len(packing.rows) - 1), np.diff(packing.rows))
    assert np.mean(row_of[1:] == row_of[:-1]) < 0.001


@pytest.mark.parametrize("known", [3 * WINDOW, 3 * WINDOW + 1, 4 * WINDOW - 1])
def test_a_longer_order_begins_with_the_same_rows(lengths: np.ndarray, packing: Packing, known: int) -> None:
    short = pack(lengths[:known], 4096, seed=0)
    decided = (known - 1) // WINDOW * WINDOW
    same = int(0.9 * lengths[:decided].sum() / 4096)
    assert np.array_equal(short.rows[:same], packing.rows[:same])
    assert np.array_equal(short.samples[: short.rows[same]], packing.samples[: short.rows[same]])


def test_a_longer_order_of_lengths_that_never_fill_a_row_begins_with_the_same_rows() -> None:
    lengths = np.full(3 * WINDOW, 1000)
    short, long = pack(lengths[: 2 * WINDOW], 4096, seed=0), pack(lengths, 4096, seed=0)
    same = WINDOW - GIVE_UP
    assert np.array_equal(short.samples[:same], long.samples[:same])


def test_equal_seeds_give_equal_rows() -> None:
    first, second = (pack(like_llava(3000), 4096, seed=5) for _ in range(2))
    assert np.array_equal(first.rows, second.rows) and np.array_equal(first.samples, second.samples)


def test_another_seed_gives_other_rows() -> None:
    first, second = (pack(like_llava(3000), 4096, seed=seed) for seed in (5, 6))
    assert not np.array_equal(first.samples, second.samples)


def test_rows_do_not_depend_on_the_integer_type_of_lengths() -> None:
    lengths = like_llava(3000)
    assert np.array_equal(pack(lengths, 4096, seed=0).samples, pack(lengths.astype(np.uint16), 4096, seed=0).samples)


@pytest.mark.parametrize("capacity", [65_535, 65_536, 10**7])
def test_rows_may_be_very_long(capacity: int) -> None:
    lengths = like_llava(WINDOW + 100)
    packing = pack(lengths, capacity, seed=0)
    assert len(packing.rows) - 1 == -(-lengths.sum() // capacity)


def test_rows_do_not_depend_on_the_unit_of_lengths() -> None:
    lengths = 2 * (like_llava(20_000) // 2)
    short, long = pack(lengths, 4096, seed=0), pack(64 * lengths, 64 * 4096, seed=0)
    assert np.array_equal(short.samples, long.samples) and np.array_equal(short.rows, long.rows)


def test_lengths_are_left_as_they_were() -> None:
    lengths = like_llava(1000)
    before = lengths.copy()
    pack(lengths, 4096, seed=0)
    assert np.array_equal(lengths, before)


def test_an_empty_order_has_no_rows() -> None:
    packing = pack(np.empty(0, np.int64), 4096, seed=0)
    assert packing.rows.tolist() == [0] and packing.samples.tolist() == []
    assert fill(packing, np.empty(0, np.int64), 4096) == 1.0


@pytest.mark.parametrize(("wrong", "lengths"), [(65, [64, 65, 66]), (0, [3, 0, 70]), (-4, [3, -4])])
def test_the_first_sample_that_fits_no_row_is_named(wrong: int, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"sample 1 of the order has {wrong} tokens, expected 1 to 64"):
        pack(np.array(lengths), 64, seed=0)


def test_lengths_that_are_no_whole_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected whole numbers in one dimension"):
        pack(np.array([1.5, 2.0]), 64, seed=0)


def test_fill_counts_the_gaps_of_all_rows() -> None:
    packing = Packing(rows=np.array([0, 2, 3]), samples=np.array([2, 0, 1]))
    assert fill(packing, np.array([6, 5, 4]), 10) == 0.75


def test_rows_too_short_for_their_samples_are_advised_against() -> None:
    text = advice(865, 2048)
    assert text is not None and "2048" in text and "data.packing.length to 3460" in text and "\n" not in text


@pytest.mark.parametrize("capacity", [3460, 4096, 8192])
def test_rows_that_hold_four_samples_need_no_advice(capacity: int) -> None:
    assert advice(865, capacity) is None
