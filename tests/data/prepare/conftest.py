"""A web server on this machine, pictures, and a way to build small data sets of the real form."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from data.prepare import download


@dataclass
class Web:
    """Files by path; what was asked of them; how they misbehave."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers are these
    ranges: bool = True

    def add(self, name: str, content: bytes) -> str:
        self.files[f"/{name}"] = content
        return f"{self.address}/{name}"


def handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            web.asked.append((self.path, asked))
            content = web.files.get(self.path)
            status = web.statuses.pop(0) if web.statuses else 200 if content is not None else 404
            if status != 200 or content is None:
                self.send_error(status)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            offset = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and web.ranges else 0  # type: ignore[index]
            if self.headers.get("If-Range", tag) != tag:
                offset = 0
            if offset and offset >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if offset else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - offset))
            if offset:
                self.send_header("Content-Range", f"bytes {offset}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            rest = content[offset:]
            self.wfile.write(rest[: web.cuts.pop(0)] if web.cuts else rest)

    return Handler


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Bytes of a small picture, another one for each number."""

    def make(number: int, format: str = "JPEG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number % 256)).save(file, format)
        return file.getvalue()

    return make


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def zip_of() -> Callable[[Path, dict[str, bytes]], Path]:
    return zipped
