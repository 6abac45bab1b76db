"""Measures how busy the endpoint engine keeps a server, beside a plain load generator.

    make bench NAME=endpoint

A real `transformers serve` runs the Terrarium's language model on the CPU. Both send the same prompts with equally many requests under way;
they take turns (A B A B ...), and the medians of their requests per second are compared. The plain generator is the simplest loop there
is: so many coroutines, each sending its next request when its last one is answered, nothing read but the status. The server has one half of
the cores, who asks the other: a server on the cores of its clients is slowed by whatever they do (both on the same two cores: 0.86).
Results: runs/bench/endpoint.json.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.terrarium.base import BASE
from data.trees.config import EndpointConfig
from data.trees.endpoint_dialect import Dialect, body
from data.trees.endpoint_engine import EndpointEngine
from data.trees.engine import Request, Sampling

GOAL = 0.9  # of the plain generator's requests per second
GREEDY = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))
SERVING = Path(__file__).parents[2] / "tests" / "support" / "serving.py"
QUESTIONS = ("What is two plus five?", "What is the opposite of hot?", "Where does the Murlo live?", "What is the sum of 18 and 1?")
MOST_RUNS = 50


def main() -> int:
    """Prints a table, writes the JSON; exit code 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=240, help="requests of a run (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, at least 3 (default: %(default)s)")
    parser.add_argument("--plain-server", action="store_true", help="serve one request after the other, without continuous batching")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/endpoint.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if not 3 <= options.runs <= MOST_RUNS:
        parser.error(f"--runs: got {options.runs}, expected 3 to {MOST_RUNS}; fewer say little")
    with tempfile.TemporaryDirectory() as folder:
        serving = _serving()
        model = serving.float32_copy(BASE / "language", Path(folder) / "model", adds_bos=False)
        words = [str(model), *([] if options.plain_server else ["--continuous-batching"])]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: max(1, len(cores) // 2)])  # the server inherits it
        with serving.transformers_serve(Path(folder) / "log.txt", *words) as url:
            os.sched_setaffinity(0, cores[len(cores) // 2 :])
            found = measure(url, str(model), options)
    ratio = statistics.median(found["engine"]) / statistics.median(found["plain"])
    print(f"{'requests/s':<12}{'min':>8}{'median':>8}{'max':>8}")
    for name, rates in found.items():
        print(f"{name:<12}{min(rates):>8.1f}{statistics.median(rates):>8.1f}{max(rates):>8.1f}")
    print(f"engine / plain: {ratio:.3f}, goal {GOAL}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"requests": options.requests, "concurrency": options.concurrency, "continuous_batching": not options.plain_server}
    record |= {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "goal": GOAL, "ratio": ratio, "requests_per_second": found}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(ratio < GOAL)


def measure(url: str, model: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Requests per second of every run of both; a run of each before them warms the server up."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = ["<s><|user|>", *(f"<s><|user|>{question}<|end|><|assistant|>" for question in QUESTIONS)]
    requests = [_request(prompts[number % len(prompts)], number, tokenizer) for number in range(options.requests)]
    config = EndpointConfig(kind="endpoint", url=url, model=model, batch_size=options.concurrency, concurrency=options.concurrency)
    engine = EndpointEngine(config, tokenizer)
    found: dict[str, list[float]] = {"plain": [], "engine": []}
    for run in range(options.runs + 1):
        start = time.perf_counter()
        asyncio.run(plain_load(url, model, requests, options.concurrency))
        middle = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of continuous batching: one temperature for all is what is asked for here
            turns = engine_load(engine, requests, options.concurrency)
        end = time.perf_counter()
        if turns != len(requests):
            raise RuntimeError(f"{url}: got {turns} turns, expected {len(requests)}")
        if run:
            found["plain"].append(len(requests) / (middle - start))
            found["engine"].append(len(requests) / (end - middle))
    return found


def engine_load(engine: EndpointEngine, requests: Sequence[Request], block: int) -> int:
    """Has the engine write all turns; gives their number."""
    blocks = (requests[first : first + block] for first in range(0, len(requests), block))
    return sum(len(written) for written in engine.complete(blocks, GREEDY))


async def plain_load(url: str, model: str, requests: Sequence[Request], concurrency: int) -> None:
    """Sends the same requests without looking at the answers.

    Raises:
        RuntimeError: The server refused one.
    """
    import openai

    dialect = Dialect(model=model, takes_ids=False, takes_stops=False)
    left = iter(requests)

    async def one_after_the_other(client: Any) -> None:
        for request in left:
            arguments = body(request, GREEDY, dialect, None)
            answer = await client.post(f"{url}/completions", json=arguments | arguments.pop("extra_body"))
            if answer.status_code != 200:
                raise RuntimeError(f"{url}: got status {answer.status_code}, expected 200: {answer.text[:300]}")

    async with openai.DefaultAsyncHttpxClient(timeout=600) as client:
        await asyncio.gather(*(one_after_the_other(client) for _ in range(concurrency)))


def _request(prompt: str, seed: int, tokenizer: Any) -> Request:
    return Request(prompt=prompt, ids=tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"]), seed=seed)


def _serving() -> Any:
    """The tests' module that starts servers; tests are no package."""
    spec = importlib.util.spec_from_file_location("serving", SERVING)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{SERVING} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
