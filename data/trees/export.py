"""Dialogues of a tree as files to train on."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from data.atomic import whole_file, write_lines
from data.trees.config import ExportFormat
from data.trees.nodes import Node

Kind = Literal["shared", "once", "raw"]
Record = dict[str, Any]
Writer = Callable[[Path, Iterable[Record]], Path]

SPEAKERS = {"user": "human", "assistant": "gpt"}
FILES: dict[ExportFormat, str] = {
    "llava": "dialogues.json",
    "sharegpt": "sharegpt.json",
    "messages": "messages.jsonl",
    "parquet": "dialogues.parquet",
    "text": "text.jsonl",
}
"""Format -> name of its file."""
GAP = "\n\n"  # between the turns of plain text
ROWS = 8192  # dialogues that are one table at once


def paths(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Every dialogue of the tree: the path to each answer below which no further answer stands, in the nodes' order.

    Questions without an answer end no path; a tree in which turns were dropped has leaves at several depths. Takes time linear in the turns
    of all paths.

    Args:
        nodes: A tree's; the parent of each is among them.
    """
    known = {node.id: node for node in nodes}
    continued = {_grandparent(node, known) for node in nodes if node.role == "assistant"}
    for node in nodes:
        if node.role == "assistant" and node.id not in continued:
            yield _path(node, known)


def weights(dialogues: Sequence[Sequence[Node]], kind: Kind = "shared") -> list[list[float]]:
    """What each turn of each dialogue weighs in the loss: the paths of a tree hold turns of its upper layers many times.

    Args:
        dialogues: Those that are exported; others do not count.
        kind: "shared": 1 / number of dialogues that hold the turn, so that it weighs 1 in all; "once": 1 in the first of them, 0 in the
            others; "raw": 1 in each.

    Returns:
        A list of weights for each dialogue.
    """
    if kind == "raw":
        return [[1.0] * len(path) for path in dialogues]
    if kind == "shared":
        share = {name: 1 / count for name, count in Counter(node.id for path in dialogues for node in path).items()}
        return [[share[node.id] for node in path] for path in dialogues]
    seen: set[str] = set()
    rows = []
    for path in dialogues:
        rows.append([float(node.id not in seen) for node in path])
        seen.update(node.id for node in path)
    return rows


def choose(dialogues: Sequence[list[Node]], size: int | None, seed: int) -> list[list[Node]]:
    """`size` of the dialogues drawn without replacement, in their old order; all when there are not more."""
    if size is None or size >= len(dialogues):
        return list(dialogues)
    chosen = random.Random(seed).sample(range(len(dialogues)), size)
    return [dialogues[number] for number in sorted(chosen)]


def to_llava(path: Sequence[Node], weights: Sequence[float] | None = None) -> Record:
    """One dialogue as a LLaVA record; its id is the last node's.

    Args:
        path: From the root to the leaf; its first node's system prompt is the dialogue's.
        weights: Of each turn in the loss, written where it is not 1; None: all are 1.
    """
    system = path[0].system
    head = [{"from": "system", "value": system}] if system is not None else []
    return {"id": path[-1].id, "conversations": head + _from_value(path, weights)}


def to_sharegpt(path: Sequence[Node], weights: Sequence[float] | None = None) -> Record:
    """One dialogue as a ShareGPT record, the system prompt beside the turns; arguments as of `to_llava`."""
    system = path[0].system
    return {"id": path[-1].id, **({"system": system} if system is not None else {}), "conversations": _from_value(path, weights)}


def to_messages(path: Sequence[Node], weights: Sequence[float] | None = None) -> Record:
    """One dialogue as OpenAI's messages; arguments as of `to_llava`."""
    system = path[0].system
    head = [{"role": "system", "content": system}] if system is not None else []
    turns = [{"role": node.role, "content": node.text, **_own(weight)} for node, weight in _weighted(path, weights)]
    return {"id": path[-1].id, "messages": head + turns}


def to_text(path: Sequence[Node], weights: Sequence[float] | None = None) -> Record:
    """One dialogue as plain text for continued pre-training: its turns with a blank line between them.

    Neither a template's marks are in it nor a system prompt, which is not the model's word. A document without its beginning would make no
    sense, so turns that documents share are written in each of them. What turns weigh stands beside the text, where it is not 1 throughout:
    `weights` holds (number of characters, weight) for turn after turn, each with the blank line behind it. The reader `text` applies
    them; other programs read `text` alone.

    Args:
        path: From the root to the leaf.
        weights: Of each turn in the loss; None: all are 1.
    """
    parts = [node.text + GAP for node in path[:-1]] + [path[-1].text]
    runs = [[len(part), weight] for part, (_, weight) in zip(parts, _weighted(path, weights), strict=True)]
    return {"id": path[-1].id, "text": "".join(parts), **({"weights": runs} if any(weight != 1 for _, weight in runs) else {})}


def write(
    formats: Iterable[ExportFormat],
    dialogues: Sequence[Sequence[Node]],
    folder: str | Path,
    kind: Kind = "shared",
) -> dict[str, Path]:
    """Writes dialogues in each format, one record after the other; each file appears whole or not at all.

    Args:
        formats: What to write; files of other formats are left alone.
        dialogues: Those to export, as `choose` gives them.
        folder: Made where there is none.
        kind: Of the turns' weights, as `weights` knows them.

    Returns:
        Format -> its file, see `FILES`.

    Raises:
        OSError: A file cannot be written; the one that stood there before still does.
    """
    rows = weights(dialogues, kind)
    written: dict[str, Path] = {}
    for name in formats:
        to_record, write_records = FORMATS[name]
        records = (to_record(path, row) for path, row in zip(dialogues, rows, strict=True))
        written[name] = write_records(Path(folder) / FILES[name], records)
    return written


def delete(folder: str | Path) -> None:
    """Deletes the files that `write` wrote before, of every format: the tree in the folder has changed since."""
    for name in FILES.values():
        (Path(folder) / name).unlink(missing_ok=True)


def _path(leaf: Node, known: dict[str, Node]) -> list[Node]:
    path = [leaf]
    while path[-1].parent is not None:
        path.append(known[path[-1].parent])
    return path[::-1]


def _grandparent(node: Node, known: dict[str, Node]) -> str | None:
    return known[node.parent].parent if node.parent is not None else None


# --- records ---------------------------------------------------------------------------------------------------------


def _weighted(path: Sequence[Node], weights: Sequence[float] | None) -> Iterator[tuple[Node, float]]:
    return zip(path, weights if weights is not None else [1.0] * len(path), strict=True)


def _own(weight: float) -> dict[str, float]:
    return {} if weight == 1 else {"weight": weight}


def _from_value(path: Sequence[Node], weights: Sequence[float] | None) -> list[Record]:
    return [{"from": SPEAKERS[node.role], "value": node.text, **_own(weight)} for node, weight in _weighted(path, weights)]


# --- files -----------------------------------------------------------------------------------------------------------


def _write_list(path: Path, records: Iterable[Record]) -> Path:
    lines = ((",\n" if number else "\n") + _json(record) for number, record in enumerate(records))
    return write_lines(path, chain(["["], lines, ["\n]\n"]))


def _write_lines(path: Path, records: Iterable[Record]) -> Path:
    return write_lines(path, (_json(record) + "\n" for record in records))


def _write_parquet(path: Path, records: Iterable[Record]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.float64())])
    schema = pa.schema([("id", pa.string()), ("messages", pa.list_(turn))])
    with whole_file(path) as partial, open(partial, "wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            for table in _tables(records, schema):
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    return path


def _tables(records: Iterable[Record], schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    rows: list[Record] = []
    for record in records:
        rows.append(record)
        if len(rows) == ROWS:
            yield pa.Table.from_pylist(rows, schema)
            rows = []
    yield pa.Table.from_pylist(rows, schema)


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False)


FORMATS: dict[ExportFormat, tuple[Callable[[Sequence[Node], Sequence[float] | None], Record], Writer]] = {
    "llava": (to_llava, _write_list),
    "sharegpt": (to_sharegpt, _write_list),
    "messages": (to_messages, _write_lines),
    "parquet": (to_messages, _write_parquet),
    "text": (to_text, _write_lines),
}
"""Format -> what makes its records, what writes them."""
