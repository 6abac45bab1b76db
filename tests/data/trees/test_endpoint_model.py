"""Which model is behind the servers of a recipe."""

import threading

import pytest
import serving

from data.trees.config import EndpointConfig
from data.trees.engine import Sampling
from data.trees.writers import served

FakeServer = serving.FakeServer

tokenizer, engine, requests = serving.tokenizer, serving.engine, serving.requests

GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))


def _writer(server, tokenizer, **settings):
    return served(EndpointConfig(kind="endpoint", url=server.url, patience=10.0, **settings), tokenizer, ())


def test_writers_of_two_served_models_have_two_identities(tokenizer):
    with FakeServer(tokenizer, models=("llama",)) as one, FakeServer(tokenizer, models=("qwen",)) as two:
        assert _writer(one, tokenizer).identity != _writer(two, tokenizer).identity


def test_a_model_that_was_found_has_the_identity_and_name_of_one_that_was_given(tokenizer):
    with FakeServer(tokenizer, models=("llama",)) as fake:
        found, given = _writer(fake, tokenizer), _writer(fake, tokenizer, model="llama")
    assert (found.identity, found.name) == (given.identity, given.name) == ({"served_model": "llama"}, "llama")


def test_a_model_that_is_given_needs_no_server(engine):
    assert engine(f"http://127.0.0.1:{serving.free_port()}/v1", model="llama", patience=0.0).served_model() == "llama"


def test_a_server_that_still_starts_is_waited_for(tokenizer, engine):
    port, servers = serving.free_port(), []
    timer = threading.Timer(0.4, lambda: servers.append(FakeServer(tokenizer, port=port, models=("llama",))))
    timer.start()
    found = engine(f"http://127.0.0.1:{port}/v1").served_model()
    servers[0].__exit__()
    assert found == "llama"


def test_a_server_that_never_starts_is_an_error_when_patience_ends(engine):
    url = f"http://127.0.0.1:{serving.free_port()}/v1"
    with pytest.raises(ConnectionError, match=r"no server has answered for 0\.3 seconds"):
        engine(url, patience=0.3).served_model()


@pytest.mark.parametrize("models", [(), ("llama", "qwen")])
def test_a_server_with_several_models_or_none_asks_for_a_name(tokenizer, models):
    with (
        FakeServer(tokenizer, models=models) as fake,
        pytest.raises(ValueError, match=rf"serves {len(models)} models, expected one: name it in tree\.engine\.model"),
    ):
        _writer(fake, tokenizer)


def test_requests_ask_for_the_model_that_was_found_at_first(tokenizer, engine, requests):
    with FakeServer(tokenizer, models=("llama",)) as fake:
        one = engine(fake)
        one.served_model()
        fake.models = ("llama", "another")
        list(one.complete([requests(1)], GREEDY))
    assert {body["model"] for body in fake.bodies} == {"llama"}


def test_servers_with_different_models_do_not_write_one_tree(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, models=("llama",)) as one,
        FakeServer(tokenizer, models=("qwen",)) as two,
        pytest.raises(ValueError, match=r"serves (llama|qwen), .* serves (llama|qwen), expected one model"),
    ):
        list(engine(one, two).complete([requests(8)], GREEDY))


def test_no_thread_stays_after_the_model_was_asked_for(tokenizer, engine):
    with FakeServer(tokenizer) as fake:
        engine(fake).served_model()
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint requests"]
