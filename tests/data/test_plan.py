"""Rows of batches: what stands in them, who gets them."""

from dataclasses import replace

import numpy as np
import pytest

from data.config import DataConfig
from data.mixture import Source
from data.plan import Amount, Plan, dealt, make_plan, tokens_of

DRAW = np.random.default_rng(0)
LENGTHS = [DRAW.integers(20, 200, 300), DRAW.integers(5, 60, 100)]
SOURCES = [Source(name="pictures", size=300, mean_tokens=110.0), Source(name="text", size=100, mean_tokens=32.0, text_only=True)]


def plan(steps: int | None = None, epochs: float = 1.0, batch_size: int = 16, seed: int = 0, **settings: object) -> Plan:
    config = DataConfig.model_validate({"sources": [{"path": "a"}, {"path": "b"}]} | settings)
    return make_plan(SOURCES, LENGTHS, config, Amount(batch_size=batch_size, steps=steps, epochs=epochs), seed)


def members(found: Plan) -> list[list[tuple[int, int]]]:
    return [[tuple(one) for one in found.row(number).tolist()] for number in range(found.rows)]


def row_tokens(found: Plan) -> np.ndarray:
    return found.per_row(tokens_of(found.order, LENGTHS))


def test_one_epoch_of_single_samples_shows_each_once() -> None:
    found = plan()
    assert found.steps == 25
    assert len({row[0] for row in members(found)}) == 400
    assert found.epochs([300, 100]) == (1.0, 1.0)


def test_packed_rows_hold_whole_samples_within_their_length() -> None:
    found = plan(packing={"length": 256})
    assert row_tokens(found).max() <= 256
    assert row_tokens(found).mean() > 0.94 * 256
    inside = [one for row in members(found) for one in row]
    assert len(inside) == len(set(inside)) or found.epochs([300, 100])[0] > 1


def test_packed_steps_are_as_many_as_asked_for() -> None:
    found = plan(steps=30, packing={"length": 256})
    assert (found.steps, found.rows) == (30, 480)
    assert row_tokens(found).mean() > 0.94 * 256


def test_a_run_of_as_many_packed_steps_as_one_epoch_needs_sees_about_everything() -> None:
    epochs = plan(packing={"length": 256}, batch_size=4).epochs([300, 100])
    assert epochs == pytest.approx((1.0, 1.0), abs=0.05)


def test_batches_grouped_by_length_pad_little_but_show_the_same_samples() -> None:
    mixed, grouped = plan(), plan(group_by_length=True)
    spread = [np.ptp(row_tokens(one).reshape(-1, 16), axis=1).mean() for one in (mixed, grouped)]
    assert spread[1] < spread[0] / 5
    assert sorted(members(mixed)) == sorted(members(grouped))
    sizes = row_tokens(grouped).reshape(-1, 16).mean(axis=1)
    assert (np.diff(sizes) < 0).any()
    assert (np.diff(sizes) > 0).any()


@pytest.mark.parametrize("settings", [{}, {"packing": {"length": 256}}, {"group_by_length": True}])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_dealing_out_changes_neither_a_steps_rows_nor_the_hash_of_the_plan(settings: dict[str, object], groups: int) -> None:
    found = plan(steps=10, **settings)
    images = (found.order.positions[:, 0] == 0).astype(np.int64)
    other = dealt(found, images, tokens_of(found.order, LENGTHS), groups=groups)
    for step in range(10):
        rows = slice(step * 16, step * 16 + 16)
        assert sorted(members(found)[rows]) == sorted(members(other)[rows])


@pytest.mark.parametrize("groups", [2, 4])
def test_every_pass_has_about_as_many_pictures_and_tokens_as_any_other(groups: int) -> None:
    found = plan(steps=10)
    images = np.random.default_rng(1).integers(0, 4, len(found.order.positions))
    tokens = tokens_of(found.order, LENGTHS) + 50 * images
    after = dealt(found, images, tokens, groups=groups)

    def uneven(one: Plan, amount: np.ndarray) -> float:
        passes = one.per_row(amount).reshape(10, groups, -1).sum(axis=2)
        return float(np.ptp(passes, axis=1).max())

    assert 2 * uneven(after, images) < uneven(found, images)
    assert uneven(after, tokens) < uneven(found, tokens)


@pytest.mark.parametrize("settings", [{}, {"packing": {"length": 256}}, {"group_by_length": True}])
def test_the_hash_tells_seeds_apart_and_nothing_else(settings: dict[str, object]) -> None:
    assert plan(seed=1, **settings).sha256() == plan(seed=1, **settings).sha256()
    assert plan(seed=1, **settings).sha256() != plan(seed=2, **settings).sha256()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "112df6c5cf4d80c4b769cc9f5512cd79adad26b57464c087fa6375efde908801"),
        ({"text_share": 0.3, "packing": {"length": 256}}, "99607c68bca103c0ff611042badabc13e3723044756450734140123956e5b408"),
        ({"text_share": 0.3, "share_by": "tokens"}, "5589c60b977e73f53aa568aa1b498212fd8a15657e3b49fe2f149a44f018cb4d"),
    ],
)
def test_the_plan_of_a_seed_is_that_of_earlier_versions(settings: dict[str, object], expected: str) -> None:
    assert plan(steps=10, seed=3, **settings).sha256() == expected


def test_the_hash_of_the_first_rows_is_that_of_a_shorter_plan() -> None:
    assert plan(steps=20).sha256(80) == plan(steps=5).sha256()


def test_the_hash_covers_where_rows_end() -> None:
    found = plan(packing={"length": 256})
    bounds = found.bounds.copy()
    bounds[1] += 1
    assert replace(found, bounds=bounds).sha256() != found.sha256()


@pytest.mark.parametrize("settings", [{}, {"packing": {"length": 256}}])
def test_an_epoch_under_a_cap_of_one_epoch_is_cut_to_whole_batches(settings: dict[str, object]) -> None:
    capped = [replace(source, max_epochs=1.0) for source in SOURCES]
    config = DataConfig.model_validate({"sources": [{"path": "a"}, {"path": "b"}]} | settings)
    found = make_plan(capped, LENGTHS, config, Amount(batch_size=33, epochs=1.0), 0)
    inside = [one for row in members(found) for one in row]
    assert 0 < len(inside) == len(set(inside)) <= 400


def test_packed_steps_beyond_a_cap_are_an_error_that_says_what_to_lower() -> None:
    capped = [replace(source, max_epochs=1.0) for source in SOURCES]
    config = DataConfig.model_validate({"sources": [{"path": "a"}, {"path": "b"}], "packing": {"length": 256}})
    make_plan(capped, LENGTHS, config, Amount(batch_size=4, steps=5), 0)
    with pytest.raises(ValueError, match=r"4000 rows are asked for, but max_epochs .* lower train\.steps"):
        make_plan(capped, LENGTHS, config, Amount(batch_size=4, steps=1000), 0)
