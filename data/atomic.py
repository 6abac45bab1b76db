"""Files that appear whole or not at all."""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end: a reader, or a crash, sees the old file or the new one.

    Makes the folder. What goes wrong inside leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Writes UTF-8 text, piece by piece, to a file that appears whole; gives `path`."""
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8 text to a file that appears whole; gives `path`."""
    return write_lines(path, [text])


def write_json(path: Path, values: Any, indent: int = 2) -> Path:
    """Writes JSON in the same way; infinities and NaN, which JSON does not know, are a ValueError."""
    return write_text(path, json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
