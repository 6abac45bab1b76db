"""A tree folder: what has grown is committed layer by layer, so that an interrupted growth goes on where it stood."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.atomic import write_json, write_text
from data.trees.nodes import Node, Tree

FORMAT = 1
NODES, MANIFEST, DIALOGUES, REPORT = "tree.jsonl", "manifest.json", "dialogues.json", "report.json"


class TreeFolder:
    """Holds `tree.jsonl` (one node a line), `manifest.json`, then `dialogues.json` with `report.json`.

    Both files are written whole, beside the old ones, and renamed. The manifest is written last: nodes of a layer that it does not name
    belong to a commit that was interrupted, so they are grown again.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Opens a folder; makes it where there is none.

        Args:
            path: The folder.
            identity: What decides the tree: plan, model, template. A tree of another identity is not touched.
            about: Further facts for the manifest.

        Raises:
            ValueError: The folder holds another tree, or files of something else.
        """
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.about = dict(about)
        self.tree = Tree(nodes=(), layers=())
        self.is_complete = False
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / MANIFEST).exists():
            self._load()
        elif any((self.path / name).exists() for name in (DIALOGUES, REPORT)):
            raise ValueError(
                f"folder {self.path} holds files of another tree but no {MANIFEST}; choose another output, or delete the folder"
            )

    def commit(self, nodes: Sequence[Node], layer: dict[str, Any]) -> None:
        """Adds a finished layer."""
        self.tree = Tree(nodes=(*self.tree.nodes, *nodes), layers=(*self.tree.layers, layer))
        lines = "".join(json.dumps(node.record(), ensure_ascii=False) + "\n" for node in self.tree.nodes)
        write_text(self.path / NODES, lines)
        self._write_manifest("growing")

    def finish(self, dialogues: Sequence[dict[str, Any]], report: dict[str, Any]) -> None:
        """Writes the export beside the tree."""
        records = ",\n".join(json.dumps(record, ensure_ascii=False) for record in dialogues)
        write_text(self.path / DIALOGUES, f"[\n{records}\n]\n")
        write_json(self.path / REPORT, report, indent=1)
        self._write_manifest("complete", dialogues=len(dialogues))

    def _write_manifest(self, status: str, **more: Any) -> None:
        manifest = {"format": FORMAT, "status": status, **self.about, "identity": self.identity, "layers": list(self.tree.layers), **more}
        write_json(self.path / MANIFEST, manifest, indent=1)

    def _load(self) -> None:
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            found, layers = manifest["identity"], manifest["layers"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path / MANIFEST} is no manifest of a tree ({error}); choose another output, or delete the folder"
            ) from error
        changed = _differences(found, self.identity)
        if changed:
            raise ValueError(
                f"folder {self.path} holds a tree that was grown otherwise: {'; '.join(changed)}. "
                "Choose another output, give the old plan and model to go on with it, or delete the folder"
            )
        self.tree = Tree(nodes=tuple(self._read_nodes(layers)), layers=tuple(layers))
        self.is_complete = manifest["status"] == "complete"

    def _read_nodes(self, layers: Sequence[Mapping[str, Any]]) -> list[Node]:
        """The committed nodes; raises when the file has lost some."""
        expected = sum(layer["kept"] for layer in layers)
        path = self.path / NODES
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if len(lines) < expected:
            raise ValueError(
                f"{path} has {len(lines)} nodes, its {MANIFEST} {expected}; the file was changed: delete the folder, grow again"
            )
        nodes = []
        for number, line in enumerate(lines[:expected], start=1):
            try:
                nodes.append(Node(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(
                    f"{path} line {number} is no node ({error}); the file was changed: delete the folder, grow again"
                ) from error
        return nodes


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted paths whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [f"{path}: {_short(old)} before, {_short(new)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "..."
