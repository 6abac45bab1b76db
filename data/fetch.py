"""Pictures from the web, fetched once into the cache."""

import time
import urllib.error
import urllib.request
from pathlib import Path

from data.atomic import whole_file
from data.fingerprint import key_of
from data.images import ImageSource, inspect
from data.problems import BadRecord

LIMIT = 256 * 2**20  # bytes of one picture
ATTEMPTS, TIMEOUT = 3, 30.0  # seconds; the pause doubles after each attempt
GONE = range(400, 500)  # answers that another attempt does not change, 429 ("too many requests") left out


def fetched(source: ImageSource, cache: Path, pause: float = 1.0) -> ImageSource:
    """The picture as a file of the cache.

    Args:
        source: A picture whose path is an address.
        cache: Folder of all fetched pictures.
        pause: Seconds before the second attempt.

    Raises:
        BadRecord: It cannot be had.
    """
    target = cache / "pictures" / key_of(source.path)
    if not target.is_file():
        content = _get(source.path, pause)
        _check(source.path, content)
        with whole_file(target) as partial:
            partial.write_bytes(content)
    return ImageSource(str(target))


def _check(address: str, content: bytes) -> None:
    """Fails where a server sends something else, such as a page that says sorry."""
    try:
        inspect(ImageSource(address, data=content))
    except BadRecord as problem:
        message = f"what {address} sends is no picture ({problem.message}); `perennial validate` tries again"
        raise BadRecord("url_failed", message) from problem


def _get(address: str, pause: float) -> bytes:
    for attempt in range(ATTEMPTS):
        try:
            request = urllib.request.Request(address, headers={"User-Agent": "perennial"})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                content: bytes = answer.read(LIMIT + 1)
            if len(content) > LIMIT:
                raise BadRecord("url_failed", f"{address} is larger than {LIMIT >> 20} MiB; save the picture and give its path")
            return content
        except (urllib.error.URLError, OSError, ValueError) as error:
            if isinstance(error, BadRecord):
                raise
            status = getattr(error, "code", None)
            if attempt == ATTEMPTS - 1 or (status in GONE and status != 429):
                message = (
                    f"{address} could not be fetched ({error}); `perennial validate` tries again; or save the picture and give its path"
                )
                raise BadRecord("url_failed", message) from error
            time.sleep(pause * 2**attempt)
    raise AssertionError("the last attempt returns or raises")
