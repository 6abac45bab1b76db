"""The report of a tree as one HTML page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.atomic import write_json, write_text
from data.figures import COLOURS
from data.preview_page import data_uri, visible
from data.trees.config import ReportConfig
from data.trees.engine import Embedder
from data.trees.map import REFERENCE, embedding_map
from data.trees.nodes import Node, Tree
from data.trees.reference import Reference
from data.trees.report import Grown, make_report, root_questions, spread
from data.trees.report_figures import draw, layer_name, reference_name

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE, NUMBERS = "report.html", "report.json"
ROOTS, CHILDREN, NODES = 8, 5, 60  # of the tree on the page: first questions, children of a turn, turns below one first question
LONGEST_TURN, LONGEST_SETTING = 1500, 400  # characters
MOST_POINTS, MOST_TOPICS = 4000, 100  # of the map, of the list of topics on the page
WIDTH, HEIGHT, MARGIN = 1000.0, 750.0, 12.0  # of the map at most, in the page's own units
NOTES = {
    "yield_curve": "New turns per thousand sampled, the further each layer went. A curve that falls to the floor says that the model has "
    "little more to write there; one that stays high, that more can be had.",
    "dropped": "What was dropped, by reason and layer.",
    "lengths": "Turns of the exported dialogues; tokens of each question and of each answer of the tree.",
}


def write_report(
    grown: Grown, folder: Path, *, config: ReportConfig, embed: Embedder | None = None, reference: Reference | None = None
) -> dict[str, Any]:
    """Writes report.json, report.html with the figures as PNG.

    Args:
        grown: The finished tree with its dialogues.
        folder: Where to.
        config: How the map is made.
        embed: Texts to unit vectors; None: there is no map.
        reference: From `data.trees.reference.read_reference`, to be read before the tree grows: a wrong path is known early then.

    Returns:
        The numbers, as in report.json.
    """
    questions = root_questions(grown.tree)
    others = reference.questions if reference is not None else ()
    shown_map = embedding_map(questions, others, embed, config) if embed is not None and questions else None
    report = make_report(grown, reference=reference, shown_map=shown_map, seed=config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, report)
    write_page(report, grown.tree, folder)
    return report


def write_page(report: Mapping[str, Any], tree: Tree, folder: Path) -> Path:
    """Draws the figures into `folder`, then writes report.html, which needs no other file nor a network; gives its path."""
    figures = {path.stem: data_uri(path.read_bytes()) for path in draw(report, folder)}
    return write_text(folder / PAGE, render(report, tree, figures))


def render(report: Mapping[str, Any], tree: Tree, figures: Mapping[str, str]) -> str:
    """The page; all that a model wrote is escaped.

    Args:
        report: From `data.trees.report.make_report`.
        tree: What is browsed.
        figures: Names to data URIs.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters |= {"number": _number, "percent": _percent}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        summary=summary(report),
        figures=[{"uri": figures[name], "note": note} for name, note in NOTES.items() if name in figures],
        layers=[layer | {"name": layer_name(layer)} for layer in report["layers"]],
        reference=reference_name(report),
        chart=chart(report["map"]) if report["map"] is not None else None,
        browse=browse(tree),
        topics=dict(list(report["topics"]["seeds"].items())[:MOST_TOPICS]),
        settings={name: _setting(value) for name, value in {**report["plan"], **report["manifest"]}.items()},
        colours=COLOURS,
    )


def summary(report: Mapping[str, Any]) -> str:
    """The tree in one sentence."""
    counts = f"{report['nodes']:,} turns make {report['dialogues']:,} dialogues from {report['roots']:,} first questions"
    sifted = f"{report['yield']:.1%} of the {report['sampled']:,} turns that were sampled were kept"
    return f"{counts}; {sifted}, {report['duplicate_share']:.1%} repeated another."


def browse(tree: Tree) -> dict[str, Any]:
    """A part of the tree small enough for a page, with counts of what is left out.

    Returns:
        `roots`: nested turns, each with `children` and `hidden_children`; `shown`, `nodes`, `hidden_roots`.
    """
    roots = [node for node in tree.nodes if node.parent is None]
    chosen = [roots[at] for at in spread(len(roots), ROOTS)]
    children: dict[str, list[Node]] = {root.id: [] for root in chosen}
    for node in tree.nodes:
        if node.parent in children:
            children[node.parent].append(node)
            children[node.id] = []
    shown = {root.id: _near(root, children) for root in chosen}
    return {
        "roots": [_branch(root, children, shown[root.id]) for root in chosen],
        "shown": sum(map(len, shown.values())),
        "nodes": len(tree.nodes),
        "hidden_roots": len(roots) - len(chosen),
    }


def chart(found: Mapping[str, Any]) -> dict[str, Any]:
    """The map's points in units of the page, `width` x `height`; the reference first, so that ours lie on top."""
    kept = spread(len(found["points"]), MOST_POINTS)
    places = [found["points"][at] for at in kept]
    (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*places, strict=True))
    scale = min((WIDTH - 2 * MARGIN) / max(right - left, 1e-9), (HEIGHT - 2 * MARGIN) / max(bottom - top, 1e-9))
    aside = (WIDTH - scale * (right - left)) / 2
    points = [
        {
            "x": round(aside + scale * (x - left), 1),
            "y": round(MARGIN + scale * (y - top), 1),
            "ours": found["corpus"][at] != REFERENCE,
            "text": found["texts"][at],
        }
        for at, (x, y) in zip(kept, places, strict=True)
    ]
    points.sort(key=lambda point: point["ours"])
    height = round(2 * MARGIN + scale * (bottom - top), 1)
    return {"points": points, "hidden": len(found["points"]) - len(kept), "width": WIDTH, "height": height}


def _near(root: Node, children: Mapping[str, Sequence[Node]]) -> set[str]:
    """Ids of the turns shown below a root: row by row until there is no room."""
    shown, row = {root.id}, [root]
    while row:
        row = [child for node in row for child in children[node.id][:CHILDREN]][: NODES - len(shown)]
        shown.update(node.id for node in row)
    return shown


def _branch(node: Node, children: Mapping[str, Sequence[Node]], shown: set[str]) -> dict[str, Any]:
    below = [_branch(child, children, shown) for child in children[node.id] if child.id in shown]
    return {
        "role": node.role,
        "text": node.text[:LONGEST_TURN],
        "more_characters": max(0, len(node.text) - LONGEST_TURN),
        "about": [f"{label}: {value}" for label, value in (("topic", node.topic), ("system prompt", node.system)) if value is not None],
        "children": below,
        "hidden_children": len(children[node.id]) - len(below),
    }


def _shown(value: Any) -> Any:
    """Plain text without control characters; markup that is escaped already stays what it is."""
    return visible(value) if type(value) is str else value


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _setting(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SETTING else f"{text[:LONGEST_SETTING]}… ({len(text) - LONGEST_SETTING:,} characters more)"
