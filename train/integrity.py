"""A folder's manifest: which files it holds, how long they are, their hashes; it is written last."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.atomic import write_json

MANIFEST, FORMAT = "manifest.json", 1
CHUNK = 1 << 22  # bytes


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def seal(folder: Path, files: Mapping[str, dict[str, Any]], **values: Any) -> None:
    """Writes the manifest of a complete folder.

    Args:
        folder: The folder.
        files: From `describe`, by name.
        values: What else the manifest says.

    Raises:
        FileNotFoundError: This process does not see a file that another has written.
    """
    unseen = [name for name in sorted(files) if not (folder / name).is_file()]
    if unseen:
        raise FileNotFoundError(
            f"{folder / unseen[0]} was written by another process and is not seen by this one; give an output on a disk that all machines "
            "share"
        )
    write_json(folder / MANIFEST, {"format": FORMAT, **values, "files": dict(sorted(files.items()))})


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest; None where it is missing or cannot be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "files" in found and found.get("format") == FORMAT else None


def damage(folder: Path, share: int = 0, of: int = 1) -> str | None:
    """What is wrong with a folder, naming the file, also where it cannot be read; None where all is as its manifest says.

    Args:
        folder: The folder.
        share: Number of the share of its files whose hashes are computed here, so that several processes may share the work.
        of: Number of shares.
    """
    try:
        return _damage(folder, share, of)
    except OSError as problem:
        return f"{folder} cannot be read: {problem}"


def _damage(folder: Path, share: int, of: int) -> str | None:
    manifest = manifest_of(folder)
    if manifest is None:
        return f"{folder / MANIFEST} is missing or not readable, or another version wrote this state"
    for number, (name, wanted) in enumerate(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != wanted["bytes"]:
            return f"{path} has {path.stat().st_size} bytes, not {wanted['bytes']}"
        if number % of == share and describe(path) != wanted:
            return f"{path} was changed: its SHA-256 is another one"
    return None
