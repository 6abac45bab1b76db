"""Files from the web, fetched in one or many sittings."""

import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ATTEMPTS, ATTEMPTS_OF_PICTURES = 5, 3  # without a new byte in between
PAUSE, LONGEST_PAUSE, TIMEOUT = 2.0, 60.0, 60.0  # seconds; the pause doubles from attempt to attempt
BLOCK = 1 << 20  # bytes
LARGEST_PICTURE = 256 * 2**20  # bytes
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that another attempt may change
BROKEN = (urllib.error.URLError, OSError, http.client.HTTPException)


class Refused(RuntimeError):
    """The server answers, and will not give the file."""


class Unreachable(RuntimeError):
    """The file may come at another time."""


def download(url: str, target: Path, *, size: int | None = None, progress: bool = True) -> Path:
    """Fetches a file; what an interruption leaves in `target.partial` is not fetched again.

    Args:
        url: Address, http or https.
        target: Appears when it is whole.
        size: Bytes it must have; None: as the server says.
        progress: Show a bar.

    Raises:
        Refused: The server does not give it; the message says what to do instead.
        Unreachable: It broke off or never began, `ATTEMPTS` times without a new byte; another call goes on.
    """
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(partial)
        try:
            _attempt(url, partial, size, progress)
            break
        except BROKEN as error:
            if _is_whole(error, partial):
                break
            failures = 1 if _size(partial) > before else failures + 1
            _wait(url, error, failures, ATTEMPTS, f"{_size(partial):,} bytes are kept in {partial}; the same command goes on from there")
    _tag(partial).unlink(missing_ok=True)
    return partial.replace(target)


def get(url: str) -> bytes:
    """Fetches a small file at once; raises as `download` does."""
    failures = 0
    while True:
        try:
            with urllib.request.urlopen(_request(url), timeout=TIMEOUT) as answer:
                content: bytes = answer.read(LARGEST_PICTURE + 1)
                length = int(answer.headers.get("Content-Length") or len(content))
            if len(content) > LARGEST_PICTURE:
                raise Refused(f"{url} is larger than {LARGEST_PICTURE >> 20} MiB")
            if len(content) < length:
                raise ConnectionError(f"the connection closed after {len(content):,} of {length:,} bytes")
            return content
        except (*BROKEN, ValueError) as error:
            if isinstance(error, ValueError):
                raise Refused(str(error)) from error
            failures += 1
            _wait(url, error, failures, ATTEMPTS_OF_PICTURES, "the same command tries again")


def _attempt(url: str, partial: Path, size: int | None, progress: bool) -> None:
    from tqdm import tqdm

    offset, tag = _size(partial), _tag(partial)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and tag.is_file():
        headers["If-Range"] = tag.read_text(encoding="utf-8")
    with urllib.request.urlopen(_request(url, headers), timeout=TIMEOUT) as answer:
        if offset and not (answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")):
            offset = 0  # the server sends the whole file: it cannot go on, or the file is another one by now
        length = answer.headers.get("Content-Length")
        total = offset + int(length) if length else size
        same = answer.headers.get("ETag") or ""
        same = answer.headers.get("Last-Modified") if not same or same.startswith("W/") else same
        tag.write_text(same, encoding="utf-8") if same else tag.unlink(missing_ok=True)
        bar = tqdm(desc=partial.stem, total=total, initial=offset, unit="B", unit_scale=True, disable=not progress)
        with bar, open(partial, "ab" if offset else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and _size(partial) < total:
        raise ConnectionError(f"the connection closed after {_size(partial):,} of {total:,} bytes")


def _is_whole(error: BaseException, partial: Path) -> bool:
    """Whether the server says that nothing is left to send; a partial file longer than the server's is thrown away."""
    if not isinstance(error, urllib.error.HTTPError) or error.code != 416:
        return False
    total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
    if total and int(total[1]) == _size(partial):
        return True
    partial.unlink(missing_ok=True)
    return False


def _wait(url: str, error: Exception, failures: int, attempts: int, kept: str) -> None:
    """Pauses before another attempt; raises where that is of no use."""
    status = error.code if isinstance(error, urllib.error.HTTPError) else None
    if status in {401, 403}:
        raise Refused(
            f"{url}: access denied ({status}); get it in a browser, with an account if it needs one, then pass its folder: --from DIR"
        )
    if status is not None and status not in AGAIN and status != 416:
        raise Refused(f"{url}: the server answers {status}; if the file has moved, get it elsewhere and pass its folder: --from DIR")
    if failures >= attempts:
        reason = "too many requests (429): wait an hour" if status == 429 else f"{error}: check the network"
        raise Unreachable(f"{url} could not be fetched; {reason}. {kept[0].upper()}{kept[1:]}") from error
    pause = PAUSE * 2 ** (failures - 1)
    if isinstance(error, urllib.error.HTTPError) and (error.headers.get("Retry-After") or "").isdigit():
        pause = max(pause, float(error.headers["Retry-After"]))
    time.sleep(min(pause, LONGEST_PAUSE))


def _request(url: str, headers: dict[str, str] | None = None) -> urllib.request.Request:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no web address")
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    return urllib.request.Request(quoted, headers={"User-Agent": "perennial"} | (headers or {}))


def _tag(partial: Path) -> Path:
    """Where the name of the file's version is kept; without it, halves of two versions could be joined."""
    return partial.with_name(partial.name + ".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
