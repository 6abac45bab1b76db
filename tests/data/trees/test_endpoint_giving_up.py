"""Turns that no server will write, among others that are written."""

import warnings

import pytest
import serving

from data.trees import endpoint_servers
from data.trees.engine import Completion, Sampling

FakeServer, plain = serving.FakeServer, serving.plain

tokenizer, engine, requests = serving.tokenizer, serving.engine, serving.requests

GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))
GIVEN_UP = Completion(text="", tokens=0, logprob=None, finish_reason="length")
POISON = 7  # seed of a turn at which servers fail; other turns begin at 1, since the seed 0 is that of the control


@pytest.fixture(autouse=True)
def short_rests(monkeypatch):
    monkeypatch.setattr(endpoint_servers, "FIRST_REST", 0.01)


def _fails(*seeds, answer=(500, {}, {"error": "NaN"})):
    return lambda body, number: answer if number >= 0 and body["seed"] in seeds else None


def _written(turns):
    return [completion for block in turns for completion in block]


def _expected(count, *given_up, first=1):
    return ["" if seed in given_up else f"turn {seed}" for seed in range(first, first + count)]


@pytest.mark.filterwarnings("ignore:turns given up")
@pytest.mark.parametrize("answer", [(500, {}, {}), (504, {}, {}), "reset"])
def test_a_turn_that_always_fails_is_given_up_while_others_are_written(tokenizer, engine, requests, answer):
    with FakeServer(tokenizer, _fails(POISON, answer=answer)) as fake:
        found = _written(engine(fake).complete([requests(4, first=first) for first in range(1, 41, 4)], GREEDY))
    assert found[POISON - 1] == GIVEN_UP
    assert [one.text for one in found] == _expected(40, POISON)


@pytest.mark.filterwarnings("ignore:turns given up")
def test_a_turn_is_tried_five_times_before_it_is_given_up(tokenizer, engine, requests):
    with FakeServer(tokenizer, _fails(POISON)) as fake:
        _written(engine(fake).complete([requests(40, first=1)], GREEDY))
    assert sum(body["seed"] == POISON for body in fake.turns) == 5


@pytest.mark.filterwarnings("ignore:turns given up")
def test_a_turn_with_one_request_at_a_time_is_given_up_as_well(tokenizer, engine, requests):
    with FakeServer(tokenizer, _fails(POISON)) as fake:
        found = _written(engine(fake, concurrency=1).complete([requests(10, first=1)], GREEDY))
    assert [one.text for one in found] == _expected(10, POISON)


@pytest.mark.filterwarnings("ignore:turns given up")
def test_a_turn_that_is_left_alone_is_given_up_where_the_server_answers_something_else(tokenizer, engine, requests):
    with FakeServer(tokenizer, _fails(POISON)) as fake:
        assert _written(engine(fake).complete([requests(1, first=POISON)], GREEDY)) == [GIVEN_UP]
    assert sum(body["seed"] == POISON for body in fake.turns) == 5


def test_a_server_that_fails_at_everything_is_decided_by_patience(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, lambda body, number: (500, {}, {}) if number >= 0 else None) as fake,
        pytest.raises(ConnectionError, match=r"no server has answered for 0\.5 seconds"),
    ):
        list(engine(fake, patience=0.5).complete([requests(1)], GREEDY))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_no_reason_to_give_a_turn_up(tokenizer, engine, requests, status):
    refused = []

    def script(body, number):
        if body["seed"] == POISON and number >= 0 and len(refused) < 6:
            refused.append(number)
            return status, {"retry-after": "0.01"}, {}
        return None

    with FakeServer(tokenizer, script) as fake:
        found = _written(engine(fake, concurrency=2).complete([requests(2, first=first) for first in range(1, 81, 2)], GREEDY))
    assert [one.text for one in found] == _expected(80)
    assert len(refused) == 6


@pytest.mark.filterwarnings("ignore:turns given up")
def test_many_turns_may_be_given_up_as_long_as_others_are_written_between_them(tokenizer, engine, requests, monkeypatch):
    monkeypatch.setattr(endpoint_servers, "BARREN", 2)
    with FakeServer(tokenizer, _fails(2, 4, 6)) as fake:
        found = _written(engine(fake, concurrency=1).complete([requests(6, first=1)], GREEDY))
    assert [one.text for one in found] == _expected(6, 2, 4, 6)


def test_a_turn_that_fails_once_and_then_finds_the_server_busy_for_ever_is_decided_by_patience(tokenizer, engine, requests):
    def script(body, number):
        return ((500, {}, {}) if number == 0 else (503, {}, {})) if body["seed"] == POISON and number >= 0 else None

    with FakeServer(tokenizer, script) as fake, pytest.raises(ConnectionError, match=r"no server has answered for 0\.5 seconds"):
        list(engine(fake, patience=0.5).complete([requests(1, first=POISON)], GREEDY))


@pytest.mark.filterwarnings("ignore:turns given up")
def test_a_server_that_fails_at_turn_after_turn_but_not_at_a_short_one_is_an_error(tokenizer, engine, requests, monkeypatch):
    monkeypatch.setattr(endpoint_servers, "BARREN", 3)
    with (
        FakeServer(tokenizer, lambda body, number: (500, {}, {"error": "NaN"}) if number >= 0 and body["seed"] else None) as fake,
        pytest.raises(ConnectionError, match="3 turns in a row failed 5 times each.*NaN.*start the same command again"),
    ):
        list(engine(fake).complete([requests(40, first=1)], GREEDY))


@pytest.mark.filterwarnings("ignore:turns given up")
def test_a_turn_that_is_held_back_by_a_content_filter_is_given_up_at_once(tokenizer, engine, requests):
    def script(body, number):
        held_back = number >= 0 and body["seed"] == POISON
        return (200, {}, plain(body, tokenizer, finish_reason="content_filter")) if held_back else None

    with FakeServer(tokenizer, script) as fake:
        found = _written(engine(fake).complete([requests(10, first=1)], GREEDY))
    assert found[POISON - 1] == GIVEN_UP
    assert len(fake.turns) == 10


def test_the_first_and_the_tenth_turn_that_is_given_up_are_told(tokenizer, engine, requests):
    def script(body, number):
        return (200, {}, plain(body, tokenizer, finish_reason="content_filter")) if number >= 0 else None

    with FakeServer(tokenizer, script) as fake, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one = engine(fake)
        for _ in range(2):
            _written(one.complete([requests(6)], GREEDY))
    said = [str(one.message) for one in told]
    assert [text.split(" (")[0] for text in said if "given up" in text] == [
        f"turns given up so far, which count as unfinished: {number}" for number in (1, 10)
    ]


def test_growth_counts_a_turn_that_was_given_up_as_unfinished(tokenizer):
    from data.trees.config import FilterConfig
    from data.trees.filters import Filters

    assert Filters(FilterConfig(), ()).reason("user", GIVEN_UP.text, GIVEN_UP.finish_reason) == "unfinished"
