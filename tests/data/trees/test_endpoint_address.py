"""Passwords in addresses: used for the connection, shown nowhere."""

import base64
import json
import re
from dataclasses import replace

import pytest
import serving

from data.trees.config import EndpointConfig
from data.trees.endpoint_dialect import split_address
from data.trees.engine import Sampling

FakeServer, plain = serving.FakeServer, serving.plain

tokenizer, engine, requests = serving.tokenizer, serving.engine, serving.requests

GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))


def _secret(server):
    url = server if isinstance(server, str) else server.url
    return url.replace("http://", "http://me:s3cret%21@")


def _authorizations(fake):
    """Gets what requests from now on say in their header."""
    seen = set()

    class Handler(fake._server.RequestHandlerClass):
        def parse_request(self):
            parsed = super().parse_request()
            seen.add(self.headers["authorization"])
            return parsed

    fake._server.RequestHandlerClass = Handler
    return seen


def test_a_password_in_an_address_goes_to_the_server_as_basic_auth(tokenizer, engine, requests):
    with FakeServer(tokenizer) as fake:
        seen = _authorizations(fake)
        list(engine(_secret(fake)).complete([requests(1)], GREEDY))
    assert seen == {"Basic " + base64.b64encode(b"me:s3cret!").decode()}


def test_a_key_goes_to_a_server_whose_address_has_no_password(tokenizer, engine, requests, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k")
    with FakeServer(tokenizer) as fake:
        seen = _authorizations(fake)
        list(engine(fake, key_variable="SOME_KEY").complete([requests(1)], GREEDY))
    assert seen == {"Bearer k"}


@pytest.mark.parametrize("model", [None, "llama"])
def test_identity_and_name_of_a_writer_hold_no_password(tokenizer, model):
    from data.trees.writers import served

    with FakeServer(tokenizer) as fake:
        writer = served(EndpointConfig(kind="endpoint", url=_secret(fake), model=model), tokenizer, ())
    assert "s3cret" not in json.dumps([dict(writer.identity), writer.name])


def _miscounted(body, tokenizer):
    answer = plain(body, tokenizer)
    answer["usage"]["prompt_tokens"] += 7
    return answer


ERRORS = {
    "no server has answered": (lambda body, tokenizer: (503, {}, {}), ConnectionError),
    "answered 401": (lambda body, tokenizer: (401, {}, {}), ValueError),
    "chat APIs": (lambda body, tokenizer: (404, {}, {}), ValueError),
    "no completion with its token counts": (lambda body, tokenizer: (200, {}, {"hello": "there"}), ValueError),
    "counts": (lambda body, tokenizer: (200, {}, _miscounted(body, tokenizer)), ValueError),
}


@pytest.mark.parametrize("said", ERRORS)
def test_errors_name_the_server_without_its_password(tokenizer, engine, requests, said):
    script, kind = ERRORS[said]
    with FakeServer(tokenizer, lambda body, number: script(body, tokenizer)) as fake:
        with pytest.raises(kind, match=said) as caught:
            list(engine(_secret(fake), patience=0.0).complete([requests(1)], GREEDY))
        assert fake.url in str(caught.value)
    assert "s3cret" not in _chain(caught.value)


def test_the_error_of_a_server_that_is_gone_names_it_without_its_password(engine, requests):
    url = f"http://127.0.0.1:{serving.free_port()}/v1"
    with pytest.raises(ConnectionError, match=re.escape(url)) as caught:
        list(engine(_secret(url), patience=0.0).complete([requests(1)], GREEDY))
    assert "s3cret" not in _chain(caught.value)


@pytest.mark.parametrize("models", [(), ("llama", "qwen")])
def test_the_error_of_a_server_with_several_models_or_none_holds_no_password(tokenizer, engine, models):
    with (
        FakeServer(tokenizer, models=models) as fake,
        pytest.raises(ValueError, match=f"{re.escape(fake.url)} serves {len(models)} models") as caught,
    ):
        engine(_secret(fake)).served_model()
    assert "s3cret" not in _chain(caught.value)


def test_the_error_of_servers_with_different_models_holds_no_password(tokenizer, engine, requests):
    with FakeServer(tokenizer, models=("llama",)) as one, FakeServer(tokenizer, models=("qwen",)) as two:
        with pytest.raises(ValueError, match="expected one model") as caught:
            list(engine(_secret(one), _secret(two)).complete([requests(8)], GREEDY))
        assert one.url in str(caught.value)
        assert two.url in str(caught.value)
    assert "s3cret" not in _chain(caught.value)


def test_what_is_said_of_a_server_with_one_temperature_holds_no_password(tokenizer, engine, requests):
    def continuous(body, number):
        if isinstance(body["prompt"], list):
            return 422, {}, {"detail": "Unexpected fields"}
        return 200, {}, plain(body, tokenizer, "What is the sum of two and five?")

    with FakeServer(tokenizer, continuous) as fake:
        one = engine(_secret(fake))
        with pytest.warns(UserWarning, match=re.escape(fake.url)) as warned:
            list(one.complete([requests(1)], GREEDY))
        assert not [one for one in warned if "s3cret" in str(one.message)]
        with pytest.raises(ValueError, match=re.escape(fake.url)) as caught:
            list(one.complete([requests(1)], replace(GREEDY, temperature=1.0)))
    assert "s3cret" not in _chain(caught.value)


def test_the_warning_of_a_turn_that_was_held_back_holds_no_password(tokenizer, engine, requests):
    with (
        FakeServer(tokenizer, lambda body, number: (200, {}, plain(body, tokenizer, finish_reason="content_filter"))) as fake,
        pytest.warns(UserWarning, match=re.escape(fake.url)) as warned,
    ):
        list(engine(_secret(fake)).complete([requests(1)], GREEDY))
    assert not [one for one in warned if "s3cret" in str(one.message)]


@pytest.mark.parametrize(
    "url", ["me:s3cret@host/v1", "http://me:s3cret/x@host/v1", "http://me:s3cret#x@host/v1", "ftp://me:s3cret@host/v1"]
)
def test_an_address_that_cannot_be_read_is_an_error_without_its_password(engine, requests, url):
    with pytest.raises(ValueError, match=r"tree\.engine\.url: got \.\.\.host/v1, expected http://HOST:PORT/v1") as caught:
        list(engine(url).complete([requests(1)], GREEDY))
    assert "s3cret" not in _chain(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://node1:8000/v1/", ("http://node1:8000/v1", None)),
        ("https://me:p%40%2Fw@[::1]:8000/v1", ("https://[::1]:8000/v1", ("me", "p@/w"))),
        ("http://token@node1/v1", ("http://node1/v1", ("token", ""))),
        ("http://me:a:b@node1", ("http://node1", ("me", "a:b"))),
    ],
)
def test_an_address_is_split_into_what_may_be_shown_and_the_rest(url, expected):
    assert split_address(url) == expected


def _chain(error):
    """Messages of an error and of all that it came from, as a traceback shows them."""
    return "" if error is None else f"{error!r} {error} {_chain(error.__cause__ or error.__context__)}"
