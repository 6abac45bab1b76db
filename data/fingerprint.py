"""Content hashes of files, computed once for each state of a file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.atomic import write_json


@dataclass(frozen=True, kw_only=True)
class FileState:
    """One file of a source.

    Attributes:
        name: Its path, as the source names it.
        size: Bytes.
        sha256: Of its content.
    """

    name: str
    size: int
    sha256: str


def fingerprint(files: Sequence[Path], cache: Path) -> tuple[FileState, ...]:
    """Hashes files; a file whose place, size, time of change are known from before is not read again."""
    return tuple(FileState(name=str(file), size=file.stat().st_size, sha256=_hash(file, cache / "hashes")) for file in files)


def key_of(*parts: object) -> str:
    """One hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _hash(file: Path, cache: Path) -> str:
    state = file.stat()
    known = cache / f"{key_of(str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ino)[:32]}.json"
    try:
        return str(json.loads(known.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        write_json(known, found)
        return found
