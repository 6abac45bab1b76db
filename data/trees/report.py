"""What grew, what was dropped, how much of it is new: in numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.trees.nodes import Node, Tree
from data.trees.reference import Reference
from data.trees.words import distinct, frequent_words

DUPLICATES = ("exact_duplicate", "near_duplicate", "same_meaning")
KINDS = {"user": "question", "assistant": "answer"}
CURVE_POINTS, CURVE_STEP = 50, 50  # at most so many points of a yield curve, each over at least so many turns
DUMPED = 20  # new questions per thousand sampled, below which the model has little left to ask
BINS = 24  # of the histograms of lengths, at most
FREQUENT_WORDS = 40
SAMPLES, LONGEST_TEXT = 12, 2000  # dialogues; characters of each turn


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What a report is about.

    Attributes:
        plan: The plan's summary.
        tree: All nodes, the counts of each layer.
        dialogues: Every path from a first question to a leaf.
        exported: Those of them that were written out.
        manifest: Model, versions, what decided the tree.
    """

    plan: Mapping[str, Any]
    tree: Tree
    dialogues: Sequence[Sequence[Node]]
    exported: Sequence[Sequence[Node]]
    manifest: Mapping[str, Any]


def root_questions(tree: Tree) -> list[str]:
    """The first questions, in order."""
    return [node.text for node in tree.nodes if node.parent is None]


def make_report(
    grown: Grown, *, reference: Reference | None = None, shown_map: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Describes a finished tree, ready for JSON.

    Args:
        grown: The tree with its dialogues.
        reference: Questions of another corpus to compare with.
        shown_map: From `data.trees.map.embedding_map`; None where there are no vectors.
        seed: Draws the words that are compared.

    Returns:
        Among others `yield`, kept / sampled; `node_copies`, turns in the exported dialogues, with `repetition`, how often each of them
        stands there on average (paths copy the turns that they share, so raw paths weight upper layers more); `yield_curve` of each
        layer; `verdicts`, what the curves say about each layer of questions; `log_probability`, natural logarithm per token.
    """
    tree, exported = grown.tree, grown.exported
    copies = sum(len(path) for path in exported)
    different = len({node.id for path in exported for node in path})
    answered = {node.parent for node in tree.nodes if node.role == "assistant"}
    curves = [yield_curve(layer["blocks"]) for layer in tree.layers]
    return {
        "plan": dict(grown.plan),
        "manifest": dict(grown.manifest),
        "nodes": len(tree.nodes),
        "roots": sum(node.parent is None for node in tree.nodes),
        "dialogues": len(grown.dialogues),
        "exported_dialogues": len(exported),
        "turns": {str(turns): count for turns, count in sorted(Counter(len(path) for path in exported).items())},
        "node_copies": copies,
        "repetition": _share(copies, different),
        "unanswered_questions": sum(node.role == "user" and node.id not in answered for node in tree.nodes),
        "tokens": sum(node.tokens for node in tree.nodes),
        "lengths": {kind: histogram([node.tokens for node in tree.nodes if node.role == role]) for role, kind in KINDS.items()},
        **_sifting(tree),
        "layers": [{name: value for name, value in layer.items() if name != "blocks"} for layer in tree.layers],
        "yield_curve": curves,
        "verdicts": [verdict(layer, curve) for layer, curve in zip(tree.layers, curves, strict=True) if layer["role"] == "user"],
        "log_probability": [_log_probability(layer["layer"], tree.nodes) for layer in tree.layers],
        "topics": _topics(tree),
        "diversity": _diversity(tree, reference, seed),
        "map": None if shown_map is None else dict(shown_map),
        "samples": [_sample(exported[at]) for at in spread(len(exported), SAMPLES)],
    }


def yield_curve(blocks: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """How much was new the further sampling went.

    Blocks too small to say anything are put together: a point stands for 50 turns at least (all, where there are fewer), the whole curve
    for 50 points at most. What is left over at the end joins the last point when it is less than half as much.

    Args:
        blocks: `sampled` with `kept` of each block, in order.

    Returns:
        For each point `sampled`, `kept` up to there, `turns` that it stands for, `new_per_thousand` among those.
    """
    step = max(CURVE_STEP, math.ceil(sum(block["sampled"] for block in blocks) / CURVE_POINTS))
    groups = [[0, 0]]
    for block in blocks:
        if groups[-1][0] >= step:
            groups.append([0, 0])
        groups[-1][0] += block["sampled"]
        groups[-1][1] += block["kept"]
    if len(groups) > 1 and groups[-1][0] < step / 2:
        sampled, kept = groups.pop()
        groups[-1] = [groups[-1][0] + sampled, groups[-1][1] + kept]
    points = []
    all_sampled = all_kept = 0
    for sampled, kept in groups:
        if sampled:
            all_sampled, all_kept = all_sampled + sampled, all_kept + kept
            new = round(1000 * kept / sampled, 1)
            points.append({"sampled": all_sampled, "kept": all_kept, "turns": sampled, "new_per_thousand": new})
    return points


def verdict(layer: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> str:
    """What a layer's yield curve says, in words; a model is dumped when what it still writes are repeats."""
    name = f"layer {layer['layer'] + 1}"
    if not curve:
        return f"{name}: nothing was sampled"
    last = curve[-1]
    start = f"the last block of {name} ({last['turns']:,} sampled)"
    end = f"gave {last['new_per_thousand']:,.0f} new questions per thousand sampled"
    if last["new_per_thousand"] >= DUMPED:
        return f"{start} still {end}"
    dropped = layer["dropped"]
    repeats = sum(dropped.get(reason, 0) for reason in DUPLICATES)
    if 2 * repeats > sum(dropped.values()):
        return f"{start} {end}, most of the rest repeated others: the model is dumped"
    most = max(dropped, key=lambda reason: (dropped[reason], reason), default="nothing").replace("_", " ")
    return f"{start} {end}; most were dropped for other reasons ({most} first), so this does not mean that the model is dumped"


def histogram(values: Sequence[int]) -> dict[str, Any]:
    """Counts of whole numbers in bins of equal width: `edges` (one more than `counts`), then mean, median, 95th percentile, largest."""
    if not values:
        return {"edges": [], "counts": [], "mean": None, "median": None, "p95": None, "longest": None}
    numbers = np.asarray(values)
    width = math.ceil((int(numbers.max()) + 1) / BINS)
    counts, edges = np.histogram(numbers, np.arange(0, int(numbers.max()) + width + 1, width))
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "mean": round(float(numbers.mean()), 2),
        "median": float(np.median(numbers)),
        "p95": float(np.percentile(numbers, 95)),
        "longest": int(numbers.max()),
    }


def spread(size: int, most: int) -> list[int]:
    """Up to `most` different positions, evenly over `size`."""
    return list(range(size)) if size <= most else [number * size // most for number in range(most)]


def _sifting(tree: Tree) -> dict[str, Any]:
    """Counts over all layers of what was sampled and what became of it."""
    dropped: Counter[str] = Counter()
    for layer in tree.layers:
        dropped.update(layer["dropped"])
    sampled = sum(layer["sampled"] for layer in tree.layers)
    seconds = sum(layer["seconds"] for layer in tree.layers)
    duplicates = sum(dropped[reason] for reason in DUPLICATES)
    return {
        "sampled": sampled,
        "yield": _share(len(tree.nodes), sampled),
        "dropped": dict(sorted(dropped.items())),
        "filters": {reason: {"count": count, "share": _share(count, sampled)} for reason, count in dropped.most_common()},
        "duplicates": duplicates,
        "duplicate_share": _share(duplicates, sampled),
        "seconds": round(seconds, 3),
        "nodes_per_second": _share(len(tree.nodes), seconds),
    }


def _log_probability(layer: int, nodes: Iterable[Node]) -> dict[str, Any]:
    """Of a layer's turns, per token with the end; `unknown` counts turns for which the engine told none."""
    here = [node for node in nodes if node.layer == layer]
    known = [
        node.logprob / max(1, node.tokens + (node.finish_reason == "stop"))
        for node in here
        if node.logprob is not None and math.isfinite(node.logprob)
    ]
    marks = np.percentile(known, [5, 50, 95]).tolist() if known else [None] * 3
    mean = round(float(np.mean(known)), 4) if known else None
    low, median, high = (None if mark is None else round(mark, 4) for mark in marks)
    return {"layer": layer, "turns": len(here), "unknown": len(here) - len(known), "mean": mean, "p5": low, "median": median, "p95": high}


def _topics(tree: Tree) -> dict[str, Any]:
    """Of the first questions: how many each topic seed gave, if there are any; the most frequent content words."""
    seeds = Counter(node.topic for node in tree.nodes if node.parent is None and node.topic is not None)
    return {"seeds": dict(seeds.most_common()), "words": frequent_words(root_questions(tree), FREQUENT_WORDS)}


def _diversity(tree: Tree, reference: Reference | None, seed: int) -> dict[str, Any]:
    """Shares of different words in the first questions; with a reference, counted over as many words of both."""
    ours = root_questions(tree)
    if reference is None:
        return {"ours": distinct([ours], seed)[0], "reference": None}
    mine, theirs = distinct([ours, reference.questions], seed)
    about = {"name": reference.name, "dialogues": reference.dialogues}
    left_out = {"without_question": reference.without_question, "bad_records": reference.bad_records}
    return {"ours": mine, "reference": about | left_out | theirs}


def _sample(path: Sequence[Node]) -> dict[str, Any]:
    root = path[0]
    turns = [
        {"role": node.role, "text": node.text[:LONGEST_TEXT], "more_characters": max(0, len(node.text) - LONGEST_TEXT)} for node in path
    ]
    return {"id": path[-1].id, "system": root.system, "topic": root.topic, "turns": turns}


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
