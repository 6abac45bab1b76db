"""A real `transformers serve`, a small server that fails on request, fixtures for both."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.terrarium.base import BASE
from data.trees.config import EndpointConfig
from data.trees.endpoint_engine import EndpointEngine
from data.trees.engine import Request

ROOT = "<s><|user|>"
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def transformers_serve(log: Path, *arguments: str) -> Iterator[str]:
    """Starts the server on the CPU; gives its address up to /v1."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [str(Path(sys.executable).with_name("transformers")), "serve", *arguments]
    with open(log, "w", encoding="utf-8") as written:
        words += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(words, env=environment, stdout=written, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"transformers serve did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def float32_copy(source: Path, folder: Path, *, adds_bos: bool) -> Path:
    """Copies a model of the Terrarium in float32; with `adds_bos` its tokenizer writes the first token by itself, as Llama's does."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    has_pictures = (source / "processor_config.json").exists()
    kind = AutoModelForImageTextToText if has_pictures else AutoModelForCausalLM
    kind.from_pretrained(source, dtype=torch.float32).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(source) if has_pictures else AutoTokenizer.from_pretrained(source)
    tokenizer = processor.tokenizer if has_pictures else processor
    if adds_bos:
        first = [(tokenizer.bos_token, tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=first)
    processor.save_pretrained(folder)
    if not has_pictures:  # the shipped file names the processor of the whole model, which lies elsewhere
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("processor_class", None)
        path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


Script = Callable[[dict[str, Any], int], Any]


class FakeServer:
    """Answers completions calls as a script of body and number says: (status, headers, body), "reset", or None for a plain answer.

    Requests are numbered from 0 on; those that ask for one token are probes, with the number -1.

    Attributes:
        bodies: Of all requests, in the order of their arrival.
        times: When the requests that are no probes arrived.
        most: Requests that were under way at the same time, at most.
        connections: All that were ever opened.
    """

    def __init__(
        self, tokenizer: Any, script: Script = lambda body, number: None, *, port: int = 0, models: tuple[str, ...] = ("m",)
    ) -> None:
        self.tokenizer, self.script, self.models = tokenizer, script, models
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.most = self._under_way = 0
        self.connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def turns(self) -> list[dict[str, Any]]:
        """Bodies of the requests that were no probes."""
        return [body for body in self.bodies if body["max_tokens"] > 1]

    def answer(self, body: dict[str, Any]) -> Any:
        with self._lock:
            self.bodies.append(body)
            number = len(self.times) if body["max_tokens"] > 1 else -1
            if number >= 0:
                self.times.append(time.monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            return self.script(body, number) or (200, {}, plain(body, self.tokenizer))
        finally:
            with self._lock:
                self._under_way -= 1


def plain(body: dict[str, Any], tokenizer: Any, text: str | None = None, **choice: Any) -> dict[str, Any]:
    """What vLLM would say: a turn that its end token ended."""
    prompt = body["prompt"] if isinstance(body["prompt"], list) else tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
    text = f"turn {body['seed']}" if text is None else text
    used = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    first = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5, -0.25]}} | choice
    usage = {"prompt_tokens": len(prompt), "completion_tokens": used, "total_tokens": len(prompt) + used}
    return {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [first], "usage": usage}


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            fake.connections.append(self.connection)

        def do_GET(self) -> None:
            self._send(200, {}, {"object": "list", "data": [{"id": name, "object": "model"} for name in fake.models]})

        def do_POST(self) -> None:
            answer = fake.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if answer == "reset":
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
                self.close_connection = True
            else:
                self._send(*answer)

        def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def engine(tokenizer):
    def make(*servers, **settings):
        urls = tuple(one if isinstance(one, str) else one.url for one in servers)
        given = {"batch_size": 4, "concurrency": 4, "patience": 10.0, "timeout": 60.0} | settings
        return EndpointEngine(EndpointConfig(kind="endpoint", url=urls, **given), tokenizer)

    return make


@pytest.fixture
def requests(tokenizer):
    def make(count=4, prompts=(ROOT,), first=0):
        chosen = [prompts[number % len(prompts)] for number in range(count)]
        ids = [tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in chosen]
        return [Request(prompt=p, ids=i, seed=first + number) for number, (p, i) in enumerate(zip(chosen, ids, strict=True))]

    return make
