"""The endpoint engine against a server that fails on request."""

import threading
import time
from dataclasses import replace

import pytest
import serving

from data.trees.engine import Sampling

FakeServer, plain = serving.FakeServer, serving.plain

tokenizer, engine, requests = serving.tokenizer, serving.engine, serving.requests

GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))
SAMPLED = Sampling(max_tokens=30, temperature=1.0, top_p=0.9, stop_ids=(2,))


def _texts(blocks):
    return [completion.text for block in blocks for completion in block]


# --- what a server may do ---


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(tokenizer, engine, requests):
    with FakeServer(tokenizer, lambda body, number: (429, {"retry-after": "0.4"}, {}) if number == 0 else None) as fake:
        assert _texts(engine(fake).complete([requests(1)], GREEDY)) == ["turn 0"]
    assert 0.4 <= fake.times[1] - fake.times[0] < 2.0


def test_waiting_without_being_told_how_long_doubles(tokenizer, engine, requests):
    with FakeServer(tokenizer, lambda body, number: (503, {}, {"error": "loading"}) if 0 <= number < 3 else None) as fake:
        assert _texts(engine(fake).complete([requests(1)], GREEDY)) == ["turn 0"]
    gaps = [later - earlier for earlier, later in zip(fake.times, fake.times[1:], strict=False)]
    assert gaps[2] > 2 * gaps[0]  # four times as long but for jitter; a loaded machine adds to each


@pytest.mark.parametrize("failure", ["reset", (500, {}, {})])
def test_turns_survive_failures_in_the_middle_of_requests(tokenizer, engine, requests, failure):
    with FakeServer(tokenizer, lambda body, number: failure if number in (1, 2) else None) as fake:
        assert _texts(engine(fake).complete([requests(4)], GREEDY)) == [f"turn {seed}" for seed in range(4)]


def test_a_server_that_is_down_at_first_is_waited_for(tokenizer, engine, requests):
    port, servers = serving.free_port(), []
    timer = threading.Timer(1.0, lambda: servers.append(FakeServer(tokenizer, port=port)))
    timer.start()
    found = _texts(engine(f"http://127.0.0.1:{port}/v1").complete([requests(8)], GREEDY))
    servers[0].__exit__()
    assert found == [f"turn {seed}" for seed in range(8)]


def test_a_server_that_is_restarted_between_blocks_is_waited_for(tokenizer, engine, requests):
    one = FakeServer(tokenizer)
    port, servers = int(one.url.split(":")[2].removesuffix("/v1")), []
    timer = threading.Timer(0.6, lambda: servers.append(FakeServer(tokenizer, port=port)))

    def blocks():
        yield requests(4)
        one.__exit__()
        timer.start()
        yield requests(4, first=4)

    found = _texts(engine(one, concurrency=2).complete(blocks(), GREEDY))
    servers[0].__exit__()
    assert found == [f"turn {seed}" for seed in range(8)]


def test_patience_ends_with_what_to_do(engine, requests):
    url, start = f"http://127.0.0.1:{serving.free_port()}/v1", time.monotonic()
    with pytest.raises(ConnectionError, match="no server has answered for 0.3 seconds .*start the same command again"):
        list(engine(url, patience=0.3).complete([requests(8)], GREEDY))
    assert time.monotonic() - start < 3.0


def test_a_refused_key_fails_at_once_and_names_the_variable(tokenizer, engine, requests, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with (
        FakeServer(tokenizer, lambda body, number: (401, {}, {"error": "who are you?"})) as fake,
        pytest.raises(ValueError, match=r"401 .*who are you\?.*SOME_KEY, which is not set"),
    ):
        list(engine(fake, key_variable="SOME_KEY", concurrency=1).complete([requests(8)], GREEDY))
    assert len(fake.bodies) <= 2  # the first request; at most one more was on its way


@pytest.mark.parametrize(
    "refusal", [(404, {}, {"detail": "Not Found"}), (405, {}, {}), (404, {}, {"error": "This is a chat model, use v1/chat/completions"})]
)
def test_a_server_that_only_chats_is_told_from_others(tokenizer, engine, requests, refusal):
    with (
        FakeServer(tokenizer, lambda body, number: refusal) as fake,
        pytest.raises(ValueError, match="raw completions API .*vLLM, SGLang or `transformers serve`"),
    ):
        list(engine(fake).complete([requests(1)], GREEDY))


def test_a_model_that_the_server_does_not_have_is_named(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, lambda body, number: (404, {}, {"error": "The model `x` does not exist."})) as fake,
        pytest.raises(ValueError, match=r"asked for model x: .*tree\.engine\.model"),
    ):
        list(engine(fake, model="x").complete([requests(1)], GREEDY))


def test_the_only_model_is_found_and_several_are_listed(tokenizer, engine, requests):
    with FakeServer(tokenizer, models=("llama",)) as fake:
        list(engine(fake).complete([requests(1)], GREEDY))
    assert fake.turns[0]["model"] == "llama"
    with (
        FakeServer(tokenizer, models=("llama", "qwen")) as fake,
        pytest.raises(ValueError, match="serves 2 models.*llama, qwen"),
    ):
        list(engine(fake).complete([requests(1)], GREEDY))


def test_a_wrong_count_of_prompt_tokens_is_an_error_with_both_numbers(tokenizer, engine, requests):
    def miscount(body, number):
        answer = plain(body, tokenizer)
        answer["usage"]["prompt_tokens"] += 7 * isinstance(body["prompt"], str)
        return 200, {}, answer

    with (
        FakeServer(tokenizer, miscount) as fake,
        pytest.raises(ValueError, match=r"counts (\d+) tokens .* counts (\d+)"),
    ):
        list(engine(fake).complete([requests(1)], GREEDY))
    assert not fake.turns


def test_something_else_than_a_completion_is_an_error_that_shows_it(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, lambda body, number: (200, {}, {"hello": "there"})) as fake,
        pytest.raises(ValueError, match="no completion with its token counts.*hello"),
    ):
        list(engine(fake).complete([requests(1)], GREEDY))


def test_a_server_with_one_temperature_for_all_is_found_out_and_a_second_temperature_refused(tokenizer, engine, requests):
    def continuous(body, number):
        if isinstance(body["prompt"], list):
            return 422, {}, {"detail": "Unexpected fields"}
        return 200, {}, plain(body, tokenizer, "What is the sum of two and five?")  # whatever stop strings say

    with FakeServer(tokenizer, continuous) as fake:
        one = engine(fake)
        with pytest.warns(UserWarning, match="ignores stop strings"):
            list(one.complete([requests(1)], SAMPLED))
        list(one.complete([requests(1)], SAMPLED))
        with pytest.raises(ValueError, match="without --continuous-batching"):
            list(one.complete([requests(1)], GREEDY))


# --- many requests ---


def test_turns_are_given_back_in_order_whatever_comes_first(tokenizer, engine, requests):
    with FakeServer(tokenizer, lambda body, number: time.sleep(0.02 * (8 - body["seed"] % 8))) as fake:
        blocks = [requests(4, first=4 * block) for block in range(6)]
        assert _texts(engine(fake, concurrency=8).complete(blocks, GREEDY)) == [f"turn {seed}" for seed in range(24)]


def test_as_many_requests_are_under_way_as_allowed_and_never_more(tokenizer, engine, requests):
    with FakeServer(tokenizer, lambda body, number: time.sleep(0.02)) as fake:
        assert len(list(engine(fake, concurrency=5).complete([requests(3)] * 20, GREEDY))) == 20
    assert fake.most == 5


def test_servers_share_the_work(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, lambda body, number: time.sleep(0.01)) as one,
        FakeServer(tokenizer, lambda body, number: time.sleep(0.01)) as two,
    ):
        list(engine(one, two, concurrency=4).complete([requests(4)] * 20, GREEDY))
        assert len(one.turns) + len(two.turns) == 80
        assert 20 < len(one.turns) < 60
        assert max(one.most, two.most) <= 3


def test_a_server_that_is_down_is_left_out_while_another_works(tokenizer, engine, requests):
    down = f"http://127.0.0.1:{serving.free_port()}/v1"
    with FakeServer(tokenizer) as fake:
        found = _texts(engine(down, fake, patience=0.5).complete([requests(4)] * 20, GREEDY))
    assert len(found) == len(fake.turns) == 80


def test_blocks_are_taken_as_they_are_needed(tokenizer, engine, requests):
    taken = []

    def blocks():
        for number in range(1000):
            taken.append(number)
            yield requests(2)

    with FakeServer(tokenizer) as fake:
        turns = engine(fake, concurrency=4).complete(blocks(), GREEDY)
        next(turns)
        time.sleep(0.2)
        turns.close()
    assert len(taken) <= 4 * 2 // 2 + 8
    assert len(fake.turns) < 40


def test_a_slow_turn_holds_back_a_bounded_number_of_others(tokenizer, engine, requests):
    taken = []

    def blocks():
        for number in range(200):
            taken.append(number)
            yield requests(2, first=2 * number)

    def script(body, number):
        seen = -1
        while body["seed"] == number == 0 and seen < len(fake.times) < 60:  # slow until nothing else goes on
            seen = len(fake.times)
            time.sleep(0.5)

    with FakeServer(tokenizer, script) as fake:
        turns = engine(fake, concurrency=2).complete(blocks(), GREEDY)
        next(turns)
        assert 4 < len(taken) <= 16 * 2 // 2
        turns.close()


@pytest.mark.parametrize("how", ["closed", "interrupted"])
def test_nothing_hangs_and_no_thread_stays_when_growth_ends_early(tokenizer, engine, requests, how):
    release = threading.Event()

    def blocks():
        yield requests(1)
        yield requests(4)
        if how == "interrupted":
            raise KeyboardInterrupt

    with FakeServer(tokenizer, lambda body, number: release.wait(20) and None if number > 0 else None) as fake:
        turns, start = engine(fake, concurrency=4).complete(blocks(), GREEDY), time.monotonic()
        if how == "closed":
            next(turns)
            turns.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                list(turns)
        assert time.monotonic() - start < 5.0
        release.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint requests"]


# --- what is said and what is read ---


def test_a_server_that_takes_token_ids_gets_them_with_every_sampling_setting(tokenizer, engine, requests):
    sampling = Sampling(max_tokens=9, temperature=0.7, top_p=0.8, stop_ids=(2, 5), stop_texts=("[/INST]",))
    (request,) = requests(1, first=2**63 - 1)
    with FakeServer(tokenizer) as fake:
        list(engine(fake).complete([[request]], sampling))
    expected = {"prompt": list(request.ids), "seed": 2**63 - 1, "max_tokens": 9, "temperature": 0.7, "top_p": 0.8, "top_k": -1}
    expected |= {"stop": ["[/INST]"], "stop_token_ids": [2, 5], "skip_special_tokens": False, "repetition_penalty": 1.0, "logprobs": 0}
    assert {name: fake.turns[0][name] for name in expected} == expected


def test_log_probabilities_are_summed_and_the_end_is_not_counted(tokenizer, engine, requests):
    with FakeServer(tokenizer) as fake:
        ((found,),) = engine(fake).complete([requests(1)], SAMPLED)
    assert found.logprob == -0.75
    assert found.tokens == len(tokenizer("turn 0", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, -0.75), (0.7, None)])
def test_log_probabilities_at_another_temperature_are_left_out(tokenizer, engine, requests, temperature, expected):
    with FakeServer(tokenizer, lambda body, number: (200, {}, plain(body, tokenizer, matched_stop=2))) as fake:
        ((found,),) = engine(fake).complete([requests(1)], replace(SAMPLED, temperature=temperature))
    assert found.logprob == expected


def test_a_turn_that_a_stop_string_ended_has_the_tokens_of_its_text(tokenizer, engine, requests):
    def script(body, number):
        answer = plain(body, tokenizer, "two plus five", stop_reason="[/INST]")
        answer["usage"]["completion_tokens"] += 5  # those of the stop string
        return 200, {}, answer

    with FakeServer(tokenizer, script) as fake:
        ((found,),) = engine(fake).complete([requests(1)], GREEDY)
    assert (found.text, found.finish_reason) == ("two plus five", "stop")
    assert found.tokens == len(tokenizer("two plus five", add_special_tokens=False)["input_ids"])


def test_a_turn_that_was_cut_off_says_so(tokenizer, engine, requests):
    with FakeServer(tokenizer, lambda body, number: (200, {}, plain(body, tokenizer, finish_reason="length"))) as fake:
        ((found,),) = engine(fake).complete([requests(1)], GREEDY)
    assert found.finish_reason == "length"
