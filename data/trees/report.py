"""What grew, what was dropped, how much of it is new: in numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from data.trees.nodes import Node, Tree
from data.trees.plan import TreeConfig

DUPLICATES = ("exact_duplicate", "near_duplicate")


def make_report(plan: TreeConfig, tree: Tree, dialogues: Sequence[Sequence[Node]], exported: Sequence[Sequence[Node]]) -> dict[str, Any]:
    """Counts of a finished tree, ready for JSON.

    `yield` is kept / sampled; `node_copies` counts turns in the exported dialogues, `repetition` is their number by different node: paths
    copy the turns that they share, so training on them weights upper layers more.
    """
    dropped: Counter[str] = Counter()
    for layer in tree.layers:
        dropped.update(layer["dropped"])
    sampled = sum(layer["sampled"] for layer in tree.layers)
    seconds = sum(layer["seconds"] for layer in tree.layers)
    copies = sum(len(path) for path in exported)
    different = len({node.id for path in exported for node in path})
    answered = {node.parent for node in tree.nodes if node.role == "assistant"}
    return {
        "plan": plan.summary(),
        "nodes": len(tree.nodes),
        "dialogues": len(dialogues),
        "exported_dialogues": len(exported),
        "turns": {str(turns): count for turns, count in sorted(Counter(len(path) for path in exported).items())},
        "node_copies": copies,
        "repetition": _share(copies, different),
        "unanswered_questions": sum(node.role == "user" and node.id not in answered for node in tree.nodes),
        "tokens": sum(node.tokens for node in tree.nodes),
        "sampled": sampled,
        "yield": _share(len(tree.nodes), sampled),
        "dropped": dict(sorted(dropped.items())),
        "duplicates": sum(dropped[reason] for reason in DUPLICATES),
        "duplicate_share": _share(sum(dropped[reason] for reason in DUPLICATES), sampled),
        "layers": list(tree.layers),
        "seconds": round(seconds, 3),
        "nodes_per_second": _share(len(tree.nodes), seconds),
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
