"""Files that appear whole or not at all."""

import json
import os
import threading
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8 text so that a reader, or a crash, sees the old file or the new one; makes the folder; gives `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_json(path: Path, values: Any, indent: int = 2) -> Path:
    """Writes JSON in the same way; infinities and NaN, which JSON does not know, are a ValueError."""
    return write_text(path, json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
