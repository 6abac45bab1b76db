"""Root-to-leaf paths of a tree as dialogues in LLaVA format."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from data.trees.nodes import Node

SPEAKERS = {"user": "human", "assistant": "gpt"}


def paths(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Every dialogue of the tree: the path to each answer below which no further answer stands, in the nodes' order.

    Questions without an answer end no path; a tree in which turns were dropped has leaves at several depths.
    """
    known = {node.id: node for node in nodes}
    continued = set()
    for node in nodes:
        if node.role == "assistant" and node.layer >= 2:
            continued.add(_grandparent(node, known))
    for node in nodes:
        if node.role == "assistant" and node.id not in continued:
            yield _path(node, known)


def to_llava(path: Sequence[Node], system: str | None = None) -> dict[str, Any]:
    """One dialogue as a LLaVA record; its id is the last node's."""
    turns = [{"from": SPEAKERS[node.role], "value": node.text} for node in path]
    head = [{"from": "system", "value": system}] if system is not None else []
    return {"id": path[-1].id, "conversations": head + turns}


def choose(dialogues: Sequence[list[Node]], size: int | None, seed: int) -> list[list[Node]]:
    """`size` of the dialogues drawn without replacement, in their old order; all when there are not more."""
    if size is None or size >= len(dialogues):
        return list(dialogues)
    chosen = random.Random(seed).sample(range(len(dialogues)), size)
    return [dialogues[number] for number in sorted(chosen)]


def _path(leaf: Node, known: dict[str, Node]) -> list[Node]:
    path = [leaf]
    while path[-1].parent is not None:
        path.append(known[path[-1].parent])
    return path[::-1]


def _grandparent(node: Node, known: dict[str, Node]) -> str | None:
    return known[node.parent].parent if node.parent is not None else None
