"""Pictures from a server on this machine."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import data.fetch as module
from data.fetch import fetched
from data.images import ImageSource
from data.problems import BadRecord


class Server(ThreadingHTTPServer):
    asked: list[str]
    answers: dict[str, list[int]]
    content: bytes


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append(self.path)
        waiting = server.answers.get(self.path, [200])
        self.send_response(waiting.pop(0) if len(waiting) > 1 else waiting[0])
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    running.asked, running.answers, running.content = [], {}, buffer.getvalue()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()


def source(server: Server, name: str) -> ImageSource:
    return ImageSource(f"http://127.0.0.1:{server.server_port}/{name}")


def test_a_picture_is_fetched_once_into_the_cache(server: Server, tmp_path: Path) -> None:
    first, second = (fetched(source(server, "a.png"), tmp_path) for _ in range(2))
    assert first == second
    assert Path(first.path).read_bytes() == server.content
    assert server.asked == ["/a.png"]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [Path(first.path).name]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers["/a.png"] = [503, 429, 200]
    assert Path(fetched(source(server, "a.png"), tmp_path, pause=0).path).is_file()
    assert len(server.asked) == 3


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (500, 3)])
def test_what_cannot_be_had_is_a_bad_record(server: Server, tmp_path: Path, status: int, attempts: int) -> None:
    server.answers["/a.png"] = [status]
    with pytest.raises(BadRecord, match=rf"a\.png could not be fetched .*{status}") as error:
        fetched(source(server, "a.png"), tmp_path, pause=0)
    assert error.value.kind == "url_failed"
    assert len(server.asked) == attempts


def test_a_page_in_place_of_a_picture_is_not_kept(server: Server, tmp_path: Path) -> None:
    picture, server.content = server.content, b"<html>sorry</html>"
    with pytest.raises(BadRecord, match="sends is no picture") as error:
        fetched(source(server, "a.png"), tmp_path, pause=0)
    assert error.value.kind == "url_failed"
    server.content = picture
    assert Path(fetched(source(server, "a.png"), tmp_path).path).read_bytes() == picture


def test_no_more_than_the_limit_is_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 3)
    with pytest.raises(BadRecord, match="larger than"):
        fetched(source(server, "a.png"), tmp_path, pause=0)
