"""The engine that asks any server with the raw completions API."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast

from data.trees.config import EndpointConfig
from data.trees.endpoint_servers import Known, Servers
from data.trees.engine import Completion, Request, Sampling

AHEAD = 2  # times `concurrency` requests handed over, so that the server never waits for growth
HELD = 16  # times `concurrency` turns that may be finished or under way before the oldest block is whole
ENDING = 10.0  # seconds for cancelled requests to end


class EndpointEngine:
    """Turns written by vLLM, SGLang or `transformers serve`, one request for each, many under way at once.

    Prompts go as token ids where the server takes them, else as text, and the server must count the tokens as the model's own tokenizer
    does. A turn's seed goes along; whether it alone decides the turn is up to the server (batches change roundings, and `transformers
    serve` has one generator for all requests): equal trees are promised at temperature 0 only, within the server's precision.
    Log-probabilities come from servers that tell them at temperature 1. Servers that are busy or gone are asked again for `patience`
    seconds; a turn at which they fail while they answer others is given up: it comes back empty, as one that was cut off, with a warning.
    `transformers serve` hides special tokens inside a turn, so that a leaked role mark cannot be seen there.
    """

    def __init__(self, config: EndpointConfig, tokenizer: Any, *, end_ids: Sequence[int] = ()) -> None:
        """Connects to nothing yet.

        Args:
            config: The section of the recipe.
            tokenizer: The tokenizer of the model behind the server.
            end_ids: Tokens that end any text of this model, from its generation config.
        """
        self.config, self.tokenizer, self.end_ids = config, tokenizer, tuple(end_ids)
        self.block_size = config.batch_size
        self._known = Known()
        self._frozen: tuple[float, float] | None = None

    def served_model(self) -> str:
        """Name of the model that writes: the recipe's, else the only one that the servers list, for which it waits `patience` seconds.

        Raises:
            ValueError: A server lists several models, or none.
            ConnectionError: No server has answered for `patience` seconds.
        """
        if self.config.model is not None:
            return self.config.model
        servers = Servers(self.config, self.tokenizer, self._known)
        with _Worker(servers, 1) as worker:
            worker.submit(None, servers.served_model)
            _, task = worker.finished.get()
            return cast(str, task.result())

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.complete`; reads ahead as far as keeps the servers busy.

        Raises:
            ValueError: A server refuses a request, has another tokenizer, or offers no raw completions.
            ConnectionError: No server has answered for `patience` seconds, or turn after turn had to be given up.
        """
        self._check_frozen(sampling)
        servers = Servers(self.config, self.tokenizer, self._known)
        waiting, unread, open_blocks = iter(blocks), True, deque[_Block]()
        under_way = held = 0
        with _Worker(servers, self.config.concurrency) as worker:
            while True:
                while unread and under_way < AHEAD * self.config.concurrency and held < HELD * self.config.concurrency:
                    requests = next(waiting, None)
                    if requests is None:
                        unread = False
                        break
                    block = _Block([None] * len(requests), len(requests))
                    open_blocks.append(block)
                    for place, request in enumerate(requests):
                        worker.submit((block, place), partial(servers.complete, request, sampling))
                    under_way, held = under_way + len(requests), held + len(requests)
                if not open_blocks:
                    return
                if not open_blocks[0].missing:
                    written = open_blocks.popleft().written
                    held -= len(written)
                    yield cast(list[Completion], written)
                    continue
                (block, place), task = worker.finished.get()
                block.written[place] = task.result()
                block.missing, under_way = block.missing - 1, under_way - 1

    def _check_frozen(self, sampling: Sampling) -> None:
        """Refuses a second temperature where the server knows only its first."""
        settings = (sampling.temperature, sampling.top_p)
        self._frozen = self._frozen or settings
        frozen = [url for url, dialect in self._known.dialects.items() if dialect.frozen]
        if frozen and settings != self._frozen:
            raise ValueError(
                f"{frozen[0]} samples every turn like its first one (temperature {self._frozen[0]:g}, top_p {self._frozen[1]:g}), but this "
                f"layer wants temperature {settings[0]:g}, top_p {settings[1]:g}: start `transformers serve` without --continuous-batching"
            )


@dataclass(eq=False)
class _Block:
    written: list[Completion | None]
    missing: int


class _Worker:
    """A thread in which requests are under way; leaving it cancels those that are not finished."""

    def __init__(self, servers: Servers, concurrency: int) -> None:
        self.finished: queue.SimpleQueue[tuple[Any, asyncio.Task[Any]]] = queue.SimpleQueue()
        self._servers, self._places = servers, asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint requests", daemon=True)

    def __enter__(self) -> "_Worker":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(ENDING)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(ENDING)
            if not self._thread.is_alive():
                self._loop.close()

    def submit(self, key: Any, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Starts a request; (key, its task) comes to `finished`."""
        self._loop.call_soon_threadsafe(self._start, key, ask)

    def _start(self, key: Any, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        task = self._loop.create_task(self._placed(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: self.finished.put((key, done)))

    async def _placed(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async with self._places:
            return await ask()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._servers.close()
