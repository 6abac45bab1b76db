"""Servers that share requests, busy or gone as they may be."""

import asyncio
import os
import random
import warnings
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from data.trees.config import EndpointConfig
from data.trees.endpoint_dialect import COMMON_LETTERS, Dialect, body, ignores_stops, read
from data.trees.engine import Completion, Request, Sampling

FIRST_REST, LONGEST_REST = 0.25, 30.0  # seconds
CONNECT = 10.0  # seconds for a connection to be accepted
PROBE = "How many are 12 plus 345? Größe, naïve; the end."
SERVERS = "vLLM, SGLang or `transformers serve`"


class _Again(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, message: str, *, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait


class _Refused(ValueError):
    """A server refused a request for good."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Server:
    url: str
    client: Any
    under_way: int = 0
    failures: int = 0
    gone: bool = False
    failed_at: float = float("-inf")
    rests_until: float = float("-inf")
    meeting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Servers:
    """The addresses of a recipe; a request goes to the least busy one that works."""

    def __init__(self, config: EndpointConfig, tokenizer: Any, known: dict[str, Dialect]) -> None:
        """Opens no connection yet.

        Args:
            config: The section of the recipe.
            tokenizer: The model's.
            known: What was found out about each address so far; gets what is found out.
        """
        import openai

        self.config, self.tokenizer, self.known = config, tokenizer, known
        if not config.urls:
            raise ValueError("tree.engine.url: got no address, expected one or several, such as http://127.0.0.1:8000/v1")
        # The same class that the client uses, whichever package it comes from.
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        timeout = openai.Timeout(config.timeout, connect=min(CONNECT, config.timeout))
        self._servers = [
            _Server(
                url=url.rstrip("/"),
                client=openai.AsyncOpenAI(
                    base_url=url.rstrip("/"),
                    api_key=os.environ.get(config.key_variable) or "none",
                    max_retries=0,
                    http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout),
                ),
            )
            for url in dict.fromkeys(config.urls)
        ]
        self._failing_since: float | None = None
        self._changed = asyncio.Event()
        self._jitter = random.Random()  # not from the seed: what waits at once should not come back at once

    async def complete(self, request: Request, sampling: Sampling) -> Completion:
        """Has one turn written.

        Raises:
            ValueError: A server refuses the request, has another tokenizer, or offers no raw completions.
            ConnectionError: For `patience` seconds nothing has come from any server.
        """
        loop = asyncio.get_running_loop()
        while True:
            server = await self._least_busy()
            started = loop.time()
            try:
                completion = await self._ask(server, request, sampling, started)
            except _Again as failure:
                self._failed(server, failure, started)
            else:
                self._failing_since, server.failures, server.gone = None, 0, False
                return completion
            finally:
                server.under_way -= 1
                self._changed.set()

    async def close(self) -> None:
        """Closes all connections."""
        for server in self._servers:
            await server.client.close()

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

    async def _ask(self, server: _Server, request: Request, sampling: Sampling, started: float) -> Completion:
        async with server.meeting:
            if server.url not in self.known:
                if started < server.failed_at:
                    raise _Again("another request found it gone")
                self.known[server.url] = await self._meet(server, request, sampling)
        dialect = self.known[server.url]
        reply = await self._send(server, request, sampling, dialect)
        if reply.usage.prompt_tokens != len(request.ids):
            raise ValueError(_other_tokenizer(server, dialect, request.prompt, len(request.ids), reply.usage.prompt_tokens))
        return read(reply, sampling, dialect, self.tokenizer)

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
        if choices[0].finish_reason not in ("stop", "length"):
            raise _Again(f"the server broke off a turn ({choices[0].finish_reason})")
        return reply

    async def _meet(self, server: _Server, request: Request, sampling: Sampling) -> Dialect:
        """Finds out what a server understands, and that its tokenizer is ours."""
        model = self.config.model or await self._only_model(server)
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
    except openai.APITimeoutError as error:
        raise _Again(f"no answer within {config.timeout:g} seconds (tree.engine.timeout)") from error
    except openai.APIConnectionError as error:
        raise _Again(f"no connection ({error.__cause__ or error})") from error
    except openai.APIStatusError as error:
        status, said = error.status_code, error.response.text[:500]
        if status in (408, 409, 429) or status >= 500:
            raise _Again(f"the server answered {status} ({said})", status=status, wait=_wait(error.response.headers)) from error
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
        return f"asked for model {config.model}: give the name under which the server has it in tree.engine.model"
    if status in (404, 405):
        return (
            "expected the raw completions API there: a tree continues prompts in the middle of a turn, while chat APIs wrap every prompt "
            f"in a template of their own; {SERVERS} offer it; tree.engine.url is the address up to /v1"
        )
    return "see tree.engine and the server's own settings (model, longest prompt)"
