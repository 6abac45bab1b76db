"""A tree folder: what has grown is committed block by block, so that an interrupted growth goes on where it stood."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from data.atomic import write_json
from data.trees import shards
from data.trees.nodes import Tree
from data.trees.shards import Shard

FORMAT = 2
MANIFEST, SHARDS, LOCK = "manifest.json", "shards", ".growing.lock"

Resume = Literal["if_possible", "always", "never"]


class TreeFolder:
    """Holds `manifest.json` beside `shards/`, to which files are only ever added.

    A shard appears whole or not at all, so whatever is in the folder is committed. The manifest is written first: what decides the tree
    (identity), how far it was to grow each time the plan was extended (extents).
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], extent: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Opens a folder; nothing is written, no shard read before `begin`.

        Args:
            path: The folder.
            identity: What decides the tree: settings, model, template. A tree of another identity is not touched.
            extent: How far it is to grow: `layers`, whose `children` may be more than before, then what may change freely.
            about: Further facts for the manifest.

        Raises:
            ValueError: The folder holds another tree, or one that was to grow larger.
        """
        self.path = Path(path)
        self.identity, self.extent = _plain(identity), _plain(extent)
        self.about, self._versions = dict(about), about.get("versions")
        self._extents: list[Any] = []
        self._status = "new"
        self._shards: list[Shard] = []
        self._lock = FileLock(self.path / LOCK)
        self._read_own_manifest()

    @property
    def holds_something(self) -> bool:
        """Whether a growth was begun here before."""
        return bool(self._extents)

    @property
    def is_complete(self) -> bool:
        """Whether this very plan is grown."""
        return self._status == "complete" and not _asks_for_more(self._extents[-1], self.extent)

    @property
    def growth(self) -> int:
        """How many times the plan has been extended."""
        return len(self._extents) - 1

    @property
    def tree(self) -> Tree:
        """All that is committed."""
        return shards.tree_of(self._shards, self.extent.get("sizes", []))

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says."""
        return {"format": FORMAT, "status": self._status, **self.about, "identity": self.identity, "extents": self._extents}

    @property
    def earlier(self) -> list[Shard]:
        """What was committed before the plan was extended last."""
        return [shard for shard in self._shards if shard.growth < self.growth]

    def stage(self, name: str) -> list[Shard]:
        """The committed blocks of a stage of this growth, in order."""
        found = sorted((one for one in self._shards if one.growth == self.growth and one.stage == name), key=lambda one: one.block)
        for number, shard in enumerate(found):
            if shard.block != number:
                raise ValueError(
                    f"{self.path / SHARDS} lacks block {number} of {name}, but holds a later one; put it back, or delete the folder"
                )
        return found

    def begin(self, resume: Resume = "if_possible") -> None:
        """Takes the folder for this process; reads what is committed, writes the manifest.

        Raises:
            ValueError: Another process grows here, or `resume` forbids what the folder asks for.
        """
        if resume == "always" and not self.holds_something:
            raise ValueError(f"tree.resume is always, but {self.path} holds no tree; check output, or set if_possible")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process is growing in {self.path}; wait for it, or choose another output") from None
        try:
            self._begin(resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, resume: Resume) -> None:
        self._read_own_manifest()  # again: another process may have grown here since the folder was opened
        self._shards = read_shards(self.path)
        if resume == "never" and self.holds_something:
            raise ValueError(f"tree.resume is never, but {self.path} holds a tree; choose another output, or set if_possible")
        if not self._extents or _asks_for_more(self._extents[-1], self.extent):
            if self._extents:
                self.about["extended_with"] = [*self.about.get("extended_with", []), self._versions]
            self._extents.append(self.extent)
            self._write("growing")

    def commit(self, shard: Shard) -> None:
        """Adds a finished block.

        Raises:
            OSError: It cannot be written; what was committed before stays.
        """
        try:
            shards.write(shard, self.path / SHARDS)
        except OSError as error:
            raise OSError(
                f"{self.path / SHARDS / shard.name} cannot be written: {error.strerror or error}. What was committed before is kept; "
                "make room, then give the same command again"
            ) from error
        self._shards.append(shard)

    def note_recall(self, layer: int, recall: Mapping[str, Any]) -> None:
        """Keeps for the manifest how many duplicates the index of a layer finds of those that are there."""
        if recall:
            self.about.setdefault("recall", {})[str(layer)] = dict(recall)

    def clear(self) -> None:
        """Deletes what is committed: for folders whose content can be made again from elsewhere."""
        shutil.rmtree(self.path / SHARDS, ignore_errors=True)
        self._shards = []

    def finish(self, **facts: Any) -> None:
        """Notes that the plan is grown, with facts about what was exported."""
        self.about |= facts
        self._write("complete")

    def close(self) -> None:
        """Lets other processes have the folder."""
        self._lock.release()

    def _write(self, status: str) -> None:
        self._status = status
        write_json(self.path / MANIFEST, self.manifest, indent=1)

    def _read_own_manifest(self) -> None:
        if not (self.path / MANIFEST).exists():
            return
        manifest = read_manifest(self.path)
        changed = differences(manifest["identity"], self.identity)
        if changed:
            raise ValueError(
                f"folder {self.path} holds a tree that was grown otherwise: {'; '.join(changed)}. "
                "Choose another output, give the old plan and model to go on with it, or delete the folder"
            )
        own = ("format", "status", "identity", "extents")
        self.about |= {name: value for name, value in manifest.items() if name not in own}  # as it was when the tree grew
        self._extents, self._status = manifest["extents"], manifest["status"]
        _check_larger(self._extents[-1], self.extent, self.path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a tree folder.

    Raises:
        ValueError: There is none, or it is none of this version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"], manifest["identity"], manifest["extents"][-1], manifest["status"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest of a tree ({error!r}); choose another folder, or grow again") from error
    if found[0] != FORMAT:
        raise ValueError(f"{folder} holds a tree of format {found[0]}, this version writes {FORMAT}; grow it again into another folder")
    return dict(manifest)


def is_tree(folder: Path) -> bool:
    """Whether a folder holds a tree."""
    return (folder / MANIFEST).is_file() and (folder / SHARDS).is_dir()


def read_tree(folder: Path) -> Tree:
    """All that is committed in a tree folder."""
    manifest, found = read_manifest(folder), read_shards(folder)
    return shards.tree_of(found, manifest["extents"][-1].get("sizes", []))


def read_shards(folder: Path) -> list[Shard]:
    """All that is committed in a tree folder, in the order of writing; raises where a node is there twice or lacks its parent."""
    found = [shards.read(path) for path in sorted((folder / SHARDS).glob("*.jsonl"))]
    times = Counter(node.id for shard in found for node in shard.nodes)
    for node in (node for shard in found for node in shard.nodes):
        if times[node.id] > 1 or (node.parent is not None and node.parent not in times):
            what = "twice" if times[node.id] > 1 else f"but not its parent {node.parent}"
            raise ValueError(f"{folder / SHARDS} holds node {node.id} {what}; files in it were changed: delete the folder, grow again")
    return found


def _asks_for_more(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an extent wants turns that an earlier one did not; fewer rounds or a higher floor want none."""
    limits = ("max_rounds", "min_yield")
    rest = [{name: value for name, value in extent.items() if name not in limits} for extent in (old, new)]
    if rest[0] != rest[1]:
        return True
    return new.get("max_rounds", 0) > old.get("max_rounds", 0) or new.get("min_yield", 0.0) < old.get("min_yield", 0.0)


def _check_larger(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """A plan may be extended: more children, more layers; nothing that is grown may have to go."""
    before, now = old.get("layers", []), new.get("layers", [])
    wrong = [f"{len(before)} layers before, {len(now)} now"] if len(now) < len(before) else []
    for number, (one, other) in enumerate(zip(before, now, strict=False), start=1):
        wrong += [f"layer {number}: {line}" for line in differences(one | {"children": 0}, other | {"children": 0})]
        if other["children"] < one["children"]:
            wrong.append(f"layer {number}: {one['children']} children before, {other['children']} now")
    if wrong:
        raise ValueError(f"folder {folder} holds a tree that cannot be extended to this plan: {'; '.join(wrong)}. Choose another output")


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted paths whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [f"{path}: {_short(old)} before, {_short(new)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "..."


def _plain(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values))
