"""Orders of samples: shares, passes, seeds."""

from dataclasses import replace

import numpy as np
import pytest

from data.mixture import Order, Source, mix, samples_per_epoch

PICTURES = Source(name="pictures", size=30)
TEXT = Source(name="text", size=10, text_only=True)


def test_one_epoch_shows_every_record_exactly_once() -> None:
    order = mix([PICTURES, TEXT], 40, seed=0)
    assert len({tuple(position) for position in order.positions.tolist()}) == 40
    assert order.epochs == (1.0, 1.0)


def test_every_batch_has_its_share_of_text() -> None:
    batches = mix([PICTURES, TEXT], 1600, seed=0, text_share=0.3).positions[:, 0].reshape(-1, 16)
    text = (batches == 1).sum(axis=1)
    assert set(text.tolist()) == {4, 5}
    assert text.sum() == 480


def test_a_weight_of_two_shows_records_twice_as_often() -> None:
    order = mix([PICTURES, Source(name="more", size=30, weight=2.0)], 900, seed=0)
    assert order.epochs == (10.0, 20.0)


def test_each_pass_over_a_source_is_a_new_permutation_of_all_of_it() -> None:
    records = mix([PICTURES], 60, seed=0).positions[:, 1]
    assert sorted(records[:30]) == sorted(records[30:]) == list(range(30))
    assert records[:30].tolist() != records[30:].tolist()


def test_the_order_depends_on_the_seed_alone() -> None:
    assert mix([PICTURES, TEXT], 100, seed=3).sha256 == mix([PICTURES, TEXT], 100, seed=3).sha256
    assert mix([PICTURES, TEXT], 100, seed=3).sha256 != mix([PICTURES, TEXT], 100, seed=4).sha256


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = (mix([PICTURES, TEXT], samples, seed=0).positions for samples in (50, 500))
    assert np.array_equal(short, long[:50])


def test_an_epoch_with_a_fixed_share_of_text_shows_each_picture_once() -> None:
    assert samples_per_epoch([PICTURES, TEXT], 0.25) == 40
    assert mix([PICTURES, TEXT], 40, seed=0, text_share=0.25).epochs == (1.0, 1.0)


@pytest.mark.parametrize(("sources", "share"), [([PICTURES], 0.2), ([TEXT], 0.8)])
def test_a_share_that_no_source_can_meet_is_an_error(sources: list[Source], share: float) -> None:
    with pytest.raises(ValueError, match=r"data\.text_share is .*no source is"):
        mix(sources, 10, seed=0, text_share=share)


def test_an_empty_source_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="nothing has no records"):
        mix([Source(name="nothing", size=0)], 10, seed=0)


SHORT, LONG = Source(name="short", size=100, mean_tokens=100.0), Source(name="long", size=50, mean_tokens=400.0)


def counts(order: Order) -> list[int]:
    return np.bincount(order.positions[:, 0], minlength=2).tolist()


def test_a_fixed_share_of_the_samples_is_met() -> None:
    assert counts(mix([replace(SHORT, share=0.25), LONG], 400, seed=0)) == [100, 300]


def test_a_fixed_share_of_the_tokens_is_met() -> None:
    short, long = counts(mix([replace(SHORT, share=0.25), LONG], 1300, seed=0, share_by="tokens"))
    assert short * 100 / (short * 100 + long * 400) == pytest.approx(0.25, abs=0.001)


def test_a_text_share_of_the_tokens_is_met() -> None:
    short, long = counts(mix([replace(SHORT, text_only=True), LONG], 1300, seed=0, text_share=0.1, share_by="tokens"))
    assert short * 100 / (short * 100 + long * 400) == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("settings", [{"text_share": 0.1}, {}])
def test_joined_dialogues_are_as_many_as_separate_ones_would_be(settings: dict[str, float]) -> None:
    share = {} if settings else {"share": 0.1}
    joined = replace(SHORT, text_only=True, size=25, mean_dialogues=4.0, **share)
    samples, others = counts(mix([joined, LONG], 3700, seed=0, **settings))
    assert 4 * samples / (4 * samples + others) == pytest.approx(0.1, abs=0.001)


def test_an_epoch_beside_joined_dialogues_shows_each_once() -> None:
    sources = [replace(SHORT, size=25, mean_dialogues=4.0), LONG]
    assert samples_per_epoch(sources) == 75
    assert mix(sources, 75, seed=0).epochs == (1.0, 1.0)


def test_by_weights_alone_samples_and_tokens_say_the_same() -> None:
    assert counts(mix([SHORT, LONG], 300, seed=0)) == counts(mix([SHORT, LONG], 300, seed=0, share_by="tokens")) == [200, 100]


def test_no_sample_is_seen_more_often_than_its_source_allows() -> None:
    order = mix([SHORT, replace(LONG, max_epochs=2.0)], 1000, seed=0)
    assert counts(order) == [900, 100]
    assert np.bincount(order.positions[order.positions[:, 0] == 1, 1]).max() == 2


def test_a_cap_that_leaves_too_few_samples_is_an_error_that_says_how_many() -> None:
    with pytest.raises(ValueError, match=r"300 samples are asked for, but max_epochs .* allows 150"):
        mix([replace(SHORT, max_epochs=1.0), replace(LONG, max_epochs=1.0)], 300, seed=0)


@pytest.mark.parametrize(
    ("shares", "message"), [((0.7, 0.6), "add up to 1.3"), ((0.3, 0.3), "add up to 0.6"), ((1.0, None), "nothing is left")]
)
def test_shares_that_cannot_be_met_are_an_error(shares: tuple[float | None, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix([replace(one, share=share) for one, share in zip((SHORT, LONG), shares, strict=True)], 10, seed=0)


def test_text_share_beside_shares_is_an_error() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        mix([replace(SHORT, text_only=True, share=0.5), LONG], 10, seed=0, text_share=0.5)


def test_an_epoch_beside_a_fixed_share_shows_the_other_sources_once() -> None:
    sources = [replace(SHORT, share=0.5), LONG]
    assert samples_per_epoch(sources) == 100
    assert mix(sources, 100, seed=0).epochs == (0.5, 1.0)
