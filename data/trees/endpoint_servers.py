"""Servers that share requests, busy or gone as they may be."""

import asyncio
import os
import random
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from data.trees.config import EndpointConfig
from data.trees.endpoint_dialect import COMMON_LETTERS, Dialect, body, ignores_stops, read, split_address
from data.trees.engine import Completion, Request, Sampling

FIRST_REST, LONGEST_REST = 0.25, 30.0  # seconds
CONNECT = 10.0  # seconds for a connection to be accepted
TRIES = 5  # failures of one request, while others are answered, after which it is given up
BARREN = 20  # requests given up in a row that are no longer a matter of single requests
PROBE = "How many are 12 plus 345? Größe, naïve; the end."
SERVERS = "vLLM, SGLang or `transformers serve`"

T = TypeVar("T")


class _Again(Exception):
    """A request failed in a way that may pass; `of_server`: surely no fault of the request."""

    def __init__(self, message: str, *, status: int | None = None, wait: float | None = None, of_server: bool = False) -> None:
        super().__init__(message)
        self.status, self.wait, self.of_server = status, wait, of_server


class _Refused(ValueError):
    """A server refused a request for good."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Known:
    """What was found out about servers so far; outlives the connections to them.

    Attributes:
        dialects: How the server at an address is spoken to.
        models: Name of the model at an address, where the recipe gives none.
        given_up: Turns that no server would write.
    """

    dialects: dict[str, Dialect] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    given_up: int = 0


@dataclass
class _Server:
    url: str  # without user or password: it is shown
    client: Any
    under_way: int = 0
    failures: int = 0
    gone: bool = False
    failed_at: float = float("-inf")
    rests_until: float = float("-inf")
    meeting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Servers:
    """The addresses of a recipe; a request goes to the least busy one that works."""

    def __init__(self, config: EndpointConfig, tokenizer: Any, known: Known) -> None:
        """Opens no connection yet.

        Args:
            config: The section of the recipe.
            tokenizer: The model's.
            known: Gets what is found out.

        Raises:
            ValueError: There is no address, or one that is none.
        """
        import openai

        self.config, self.tokenizer, self.known = config, tokenizer, known
        if not config.urls:
            raise ValueError("tree.engine.url: got no address, expected one or several, such as http://127.0.0.1:8000/v1")
        # The same class that the client uses, whichever package it comes from.
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        timeout = openai.Timeout(config.timeout, connect=min(CONNECT, config.timeout))
        self._servers = []
        for url, login in dict.fromkeys(map(split_address, config.urls)):
            transport = openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout, auth=login)
            key = os.environ.get(config.key_variable) or "none"
            client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=transport)
            self._servers.append(_Server(url=url, client=client))
        self._failing_since: float | None = None
        self._answers = self._barren = 0
        self._changed = asyncio.Event()
        self._jitter = random.Random()  # not from the seed: what waits at once should not come back at once

    async def complete(self, request: Request, sampling: Sampling) -> Completion:
        """Has one turn written; an empty, unfinished one where servers that answer others fail at this one again and again.

        Raises:
            ValueError: A server refuses the request, has another tokenizer, or offers no raw completions.
            ConnectionError: For `patience` seconds nothing has come from any server, or turn after turn had to be given up.
        """
        failures, seen = 0, -1
        while True:
            try:
                completion = await self._once(partial(self._ask, request, sampling, seen))
            except _Again as failure:
                if failure.of_server or seen == self._answers:
                    continue
                failures, seen = failures + 1, self._answers
                if failures == TRIES:
                    return self._failed_for_good(failure)
            else:
                self._barren = 0
                return completion

    async def served_model(self) -> str:
        """Name of the model behind the first server that answers.

        Raises:
            ValueError: The server has several models, or none.
            ConnectionError: For `patience` seconds nothing has come from any server.
        """
        while True:
            with suppress(_Again):
                return await self._once(lambda server, _: self._model(server))

    async def close(self) -> None:
        """Closes all connections."""
        for server in self._servers:
            await server.client.close()

    async def _once(self, ask: Callable[[_Server, float], Awaitable[T]]) -> T:
        """Asks the least busy server; `_Again` where that failed with patience left."""
        server = await self._least_busy()
        started = asyncio.get_running_loop().time()
        try:
            answer = await ask(server, started)
        except _Again as failure:
            self._failed(server, failure, started)
            raise
        else:
            self._answered(server)
            return answer
        finally:
            server.under_way -= 1
            self._changed.set()

    async def _least_busy(self) -> _Server:
        """Waits for a server that works; one that was gone gets a single request first, to see whether it is back."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            free = [one for one in self._servers if one.rests_until <= now and not (one.gone and one.under_way)]
            if free:
                server = min(free, key=lambda one: one.under_way)
                server.under_way += 1
                return server
            ends = [one.rests_until - now for one in self._servers if one.rests_until > now]
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(ends, default=None)):
                    await self._changed.wait()

    def _answered(self, server: _Server) -> None:
        self._failing_since, server.failures, server.gone = None, 0, False
        self._answers += 1

    def _failed(self, server: _Server, failure: _Again, started: float) -> None:
        now = asyncio.get_running_loop().time()
        self._failing_since = now if self._failing_since is None else self._failing_since
        left = self._failing_since + self.config.patience - now
        if left <= 0:
            raise ConnectionError(
                f"{server.url}: {failure}; no server has answered for {self.config.patience:g} seconds (tree.engine.patience); what was "
                "committed is kept: see that the server runs, then start the same command again"
            )
        if started < server.failed_at:
            return  # went out before the server was known to fail: one failure, not many
        server.failures, server.failed_at, server.gone = server.failures + 1, now, failure.status != 429
        rest = min(FIRST_REST * 2 ** min(server.failures - 1, 20), LONGEST_REST) * (1 + self._jitter.random() / 4)
        server.rests_until = now + min(rest if failure.wait is None else failure.wait, left)

    def _failed_for_good(self, failure: _Again) -> Completion:
        self._barren += 1
        if self._barren > BARREN:
            raise ConnectionError(
                f"{BARREN} turns in a row failed {TRIES} times each, though the servers answer a short request; the last time: {failure}; "
                "what was committed is kept: see the server's log, then start the same command again"
            )
        return self._give_up(f"failed {TRIES} times while other requests were answered, the last time: {failure}")

    def _give_up(self, why: str) -> Completion:
        """An empty turn that was cut off, which growth counts among the unfinished."""
        self.known.given_up += 1
        number = self.known.given_up
        if f"{number}".rstrip("0") == "1":  # the first, the tenth, the hundredth
            warnings.warn(f"turns given up so far, which count as unfinished: {number} (this one {why})", stacklevel=2)
        return Completion(text="", tokens=0, logprob=None, finish_reason="length")

    async def _ask(self, request: Request, sampling: Sampling, seen: int, server: _Server, started: float) -> Completion:
        """Has a server write a turn that failed when there were `seen` answers."""
        async with server.meeting:
            if server.url not in self.known.dialects:
                if started < server.failed_at:
                    raise _Again("another request found it gone", of_server=True)
                self.known.dialects[server.url] = await self._meet(server, request, sampling)
        dialect = self.known.dialects[server.url]
        if seen == self._answers:
            await self._try_another(server, sampling, dialect)
        reply = await self._send(server, request, sampling, dialect)
        if reply.usage.prompt_tokens != len(request.ids):
            raise ValueError(_other_tokenizer(server, dialect, request.prompt, len(request.ids), reply.usage.prompt_tokens))
        if reply.choices[0].finish_reason == "content_filter":
            return self._give_up(f"was held back by the content filter of {server.url}")
        return read(reply, sampling, dialect, self.tokenizer)

    async def _try_another(self, server: _Server, sampling: Sampling, dialect: Dialect) -> None:
        """Finds out whether a server fails at all requests or at one, where no other has told."""
        prompt = (self.tokenizer.bos_token or "") + PROBE
        ids = tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        await self._send(server, Request(prompt=prompt, ids=ids, seed=0), sampling, dialect)
        self._answered(server)

    async def _send(self, server: _Server, request: Request, sampling: Sampling, dialect: Dialect) -> Any:
        """One call of the completions API."""
        arguments = body(request, sampling, dialect, self.tokenizer.bos_token)
        reply = await _answer(server.client.completions.create(**arguments), server.url, self.config)
        choices, usage = getattr(reply, "choices", None), getattr(reply, "usage", None)
        if not choices or usage is None or not isinstance(choices[0].text, str):
            raise ValueError(
                f"{server.url}: the answer is no completion with its token counts: {str(reply)[:300]}; tree.engine.url should be the "
                f"address up to /v1 of {SERVERS}"
            )
        if choices[0].finish_reason not in ("stop", "length", "content_filter"):
            raise _Again(f"the server broke off a turn ({choices[0].finish_reason})")
        return reply

    async def _meet(self, server: _Server, request: Request, sampling: Sampling) -> Dialect:
        """Finds out what a server understands, and that its tokenizer is ours."""
        model = self.config.model or await self._model(server)
        prompt = request.prompt + PROBE
        ids = tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        probe, short = replace(request, prompt=prompt, ids=ids), replace(sampling, max_tokens=1, stop_texts=())
        dialect = Dialect(model=model, takes_ids=True)
        try:
            await self._send(server, probe, short, dialect)
        except _Refused as refusal:
            if refusal.status not in (400, 422):
                raise
            dialect = await self._meet_in_text(server, probe, short, replace(dialect, takes_ids=False))
            return await self._try_stops(server, request, replace(sampling, max_tokens=15, stop_texts=COMMON_LETTERS), dialect)
        as_text = body(probe, short, dialect, None) | {"prompt": prompt}
        reply = await _answer(server.client.completions.create(**as_text), server.url, self.config)
        doubled = prompt.startswith(self.tokenizer.bos_token or prompt + "!")
        if reply.usage.prompt_tokens not in (len(ids), len(ids) + 1 if doubled else len(ids)):
            raise ValueError(_other_tokenizer(server, dialect, prompt, len(ids), reply.usage.prompt_tokens))
        return dialect

    async def _meet_in_text(self, server: _Server, probe: Request, short: Sampling, dialect: Dialect) -> Dialect:
        # With the temperature of the turns to come: some servers keep that of their first request (`Dialect.frozen`).
        expected = len(probe.ids)
        found = (await self._send(server, probe, short, dialect)).usage.prompt_tokens
        if found == expected + 1:
            dialect = replace(dialect, adds_bos=True)
            found = (await self._send(server, probe, short, dialect)).usage.prompt_tokens
        if found != expected:
            raise ValueError(_other_tokenizer(server, dialect, probe.prompt, expected, found))
        return dialect

    async def _try_stops(self, server: _Server, request: Request, stopping: Sampling, dialect: Dialect) -> Dialect:
        """Finds out what stop strings do, with the opening of a real turn, so that there is a text to stop."""
        try:
            reply = await self._send(server, request, stopping, dialect)
        except _Again as failure:
            if failure.status != 500:
                raise
            return replace(dialect, takes_stops=False)  # `transformers serve` fails at stop strings when the model has a processor
        if not ignores_stops(reply.choices[0].text, self.tokenizer):
            return dialect
        warnings.warn(
            f"{server.url} ignores stop strings, as `transformers serve --continuous-batching` does; such a server also samples every "
            "turn with the temperature and top_p of the first request that it ever had: start it anew for this tree, and with one "
            "temperature for all layers, or without --continuous-batching",
            stacklevel=2,
        )
        return replace(dialect, takes_stops=False, frozen=True)

    async def _model(self, server: _Server) -> str:
        """The only model of a server, which must be that of the others."""
        models = self.known.models
        if server.url not in models:
            found = await self._only_model(server)
            for url, other in models.items():
                if other != found:
                    raise ValueError(
                        f"{server.url} serves {found}, {url} serves {other}, expected one model behind all of tree.engine.url, since "
                        "one model writes a tree; if they are the same, serve both under one name"
                    )
            models[server.url] = found
        return models[server.url]

    async def _only_model(self, server: _Server) -> str:
        try:
            page = await _answer(server.client.models.list(), server.url, self.config)
            names = [model.id for model in page.data]
        except _Again as failure:
            if failure.status != 500:
                raise
            names = []  # `transformers serve` fails like this where the hub's cache is missing
        if len(names) == 1:
            return str(names[0])
        raise ValueError(
            f"{server.url} serves {len(names)} models, expected one: name it in tree.engine.model"
            + (
                f"; there are {', '.join(map(str, names))}"
                if names
                else "; with `transformers serve` it is what the server was started with"
            )
        )


def _other_tokenizer(server: _Server, dialect: Dialect, prompt: str, expected: int, found: int | None) -> str:
    return (
        f"{server.url}: the server counts {found} tokens in a prompt in which this model's tokenizer counts {expected} ({prompt[-80:]!r}): "
        f"it serves another model or another version of its tokenizer (asked for model {dialect.model}); see tree.model, "
        "tree.engine.url, tree.engine.model"
    )


async def _answer(call: Awaitable[Any], url: str, config: EndpointConfig) -> Any:
    """Waits for an answer; tells what may pass (`_Again`) from what will not."""
    import openai

    try:
        return await call
    except openai.APIConnectionError as error:
        # By name, since the client's package is httpx or httpx2; a request that was never sent is not at fault.
        unsent = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
        late = isinstance(error, openai.APITimeoutError) and not unsent
        what = (
            f"no answer within {config.timeout:g} seconds (tree.engine.timeout)" if late else f"no connection ({error.__cause__ or error})"
        )
        raise _Again(what, of_server=unsent) from error
    except openai.APIStatusError as error:
        status, said = error.status_code, error.response.text[:500]
        if status in (408, 409, 429) or status >= 500:
            wait, busy = _wait(error.response.headers), status in (429, 503)
            raise _Again(f"the server answered {status} ({said})", status=status, wait=wait, of_server=busy) from error
        raise _Refused(f"{url} answered {status} ({said}); {_advice(status, said, config)}", status) from error


def _wait(headers: Any) -> float | None:
    """Seconds that a server asks to be left alone; None where it names none, or a date."""
    try:
        return max(float(headers.get("retry-after", "")), 0.0)
    except ValueError:
        return None


def _advice(status: int, said: str, config: EndpointConfig) -> str:
    if status in (401, 403):
        state = "is set" if os.environ.get(config.key_variable) else "is not set"
        return f"expected a key that it accepts in the environment variable {config.key_variable}, which {state} (tree.engine.key_variable)"
    about_model = "model" in said.lower() and "chat" not in said.lower()
    if status == 404 and about_model:
        return f"asked for model {config.model or 'that it lists'}: give the name under which the server has it in tree.engine.model"
    if status in (404, 405):
        return (
            "expected the raw completions API there: a tree continues prompts in the middle of a turn, while chat APIs wrap every prompt "
            f"in a template of their own; {SERVERS} offer it; tree.engine.url is the address up to /v1"
        )
    return "see tree.engine and the server's own settings (model, longest prompt)"
