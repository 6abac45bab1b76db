"""A data set's files on this machine: found, linked or fetched, always verified."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.prepare import hub
from data.prepare.download import download
from data.prepare.spec import DatasetSpec, RemoteFile, Request

RAW = "raw"
STATE = "state.json"


class Store:
    """Files by name; `raw/state.json` remembers which were verified, so that no file is read twice for its checksum.

    Args:
        spec: The data set.
        request: Where it goes and where its files may be.
    """

    def __init__(self, spec: DatasetSpec, request: Request) -> None:
        self.spec, self.request = spec, request
        self.raw = request.output / RAW
        path = self.raw / STATE
        self.state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def get(self, file: RemoteFile) -> tuple[Path, ...]:
        """The local files of a remote file, several where its name is a pattern; fetches what is missing.

        Raises:
            RuntimeError: One cannot be fetched, or is not what was published.
        """
        if file.url:
            path = self.found(file.name)
            path = path or download(file.url, self.raw / file.name, size=file.size, progress=self.request.progress)
            return (self._verified(path, file.name, file.size, file.checksum, file.url),)
        known = self.state.get("hub", {}).get(file.address)
        if known is None:
            mine = self._given(file)
            if mine:
                return tuple(self._verified(path, path.name, file.size, file.checksum, str(path)) for path in mine)
            known = [vars(one) for one in hub.look_up(file.hub, file.name)]
            self.remember("hub", file.address, known)
        return tuple(self._from_hub(file, hub.HubFile(**one)) for one in known)

    def found(self, name: str) -> Path | None:
        """Where a file lies already: in the user's folder, under its path or its bare name, else in `raw/`."""
        source = self.request.source
        places = [source / name, source / Path(name).name] if source else []
        return next((path for path in [*places, self.raw / name] if path.is_file()), None)

    def records(self) -> list[dict[str, Any]]:
        """Name, place, size, checksum of each file, as `prepare.json` keeps them."""
        return [{"name": name} | about for name, about in sorted(self.state.get("files", {}).items())]

    def remember(self, section: str, name: str, value: Any) -> None:
        """Keeps a fact for the next call."""
        self.state.setdefault(section, {})[name] = value
        write_json(self.raw / STATE, self.state)

    def recall(self, section: str, name: str) -> Any:
        """A fact that was kept; None if none."""
        return self.state.get(section, {}).get(name)

    def _given(self, file: RemoteFile) -> list[Path]:
        """Files of the user's folder that fit a name with or without its folders, which may be a pattern."""
        source = self.request.source
        if source is None:
            return []
        return sorted(source.glob(file.name)) or sorted(source.glob(Path(file.name).name))

    def _from_hub(self, file: RemoteFile, one: hub.HubFile) -> Path:
        path = self.found(one.name) or hub.fetch(file.hub, one, self.raw)
        address = f"hf://datasets/{file.hub}@{one.revision}/{one.name}"
        return self._verified(path, one.name, file.size or one.size, file.checksum or one.checksum, address)

    def _verified(self, path: Path, name: str, size: int | None, checksum: str, address: str) -> Path:
        stat = path.stat()
        seen = {"path": str(path), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        known = self.recall("files", name)
        if known and {key: known.get(key) for key in seen} == seen:
            return path
        kind = checksum.partition(":")[0] or "sha256"
        found = digests(path, {"sha256", kind})
        problem = ""
        if size is not None and stat.st_size != size:
            problem = f"has {stat.st_size:,} bytes, expected {size:,}"
        elif checksum and found[kind] != checksum.partition(":")[2]:
            problem = f"has the {kind} {found[kind]}, published is {checksum.partition(':')[2]}"
        if problem:
            mine = path.is_relative_to(self.raw)
            if mine:
                path.unlink()
            todo = "It is deleted; run the same command again" if mine else "Replace it, or leave --from away to fetch it"
            raise RuntimeError(f"{path} {problem}. {todo}; if it happens again, the file at {address} is another one by now")
        if not checksum:
            self.request.say(f"{name}: no published checksum; its sha256 is {found['sha256']}")
        self.remember("files", name, seen | {"sha256": found["sha256"], "published_checksum": checksum or None, "address": address})
        return path


def digests(path: Path, kinds: set[str]) -> dict[str, str]:
    """Hex checksums of a file, read once: kind as `hashlib` calls it -> checksum."""
    hashes: dict[str, Any] = {kind: hashlib.new(kind) for kind in kinds}
    updates: list[Callable[[bytes], None]] = [one.update for one in hashes.values()]
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for update in updates:
                update(block)
    return {kind: one.hexdigest() for kind, one in hashes.items()}
