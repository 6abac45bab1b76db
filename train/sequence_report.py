"""The report of a sequence of skills: a heat map for each order, one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.atomic import write_text
from data.figures import STYLE
from train.evaluate.comparison import percent, points
from train.evaluate.figures import GROUP_NAMES
from train.evaluate.samples import png_uri
from train.evaluate.tasks import GROUPS
from train.sequence_matrix import MEASURES

TEMPLATE = Path(__file__).with_name("sequence.html.j2")
TITLES = {
    "target_learning": "learned",
    "target_forgetting": "forgotten again",
    "target_overall": "at the end",
    "held_out_forgetting": "held out",
    "held_out_visual": "held-out images",
    "held_out_text": "held-out text",
}


def render(matrix: Mapping[str, Any], folder: Path, title: str = "Skill after skill") -> Path:
    """Writes order-N.png of each order, report.html.

    Args:
        matrix: From `train.sequence_matrix.matrix`, every sequence whole.
        folder: Where to; made if missing.
        title: The page's heading.

    Returns:
        The path of report.html, which needs no other file nor a network.
    """
    from jinja2 import Environment, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    figures = [{"uri": png_uri(draw(order, matrix, folder).read_bytes()), "note": note(order)} for order in matrix["orders"]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        summary=sentence(matrix),
        head=head(),
        rows=rows(matrix),
        figures=figures,
        sequences=matrix["sequences"],
        percent=percent,
        settings={"suite": matrix["suite"], "base": matrix["base"]["model"], **matrix["settings"]},
    )
    return write_text(folder / "report.html", page)


def sentence(matrix: Mapping[str, Any]) -> str:
    """The outcome in one sentence, built from the numbers."""
    found = matrix["measures"]
    tasks = len(matrix["sequences"][0]["tasks"])
    learned = points(_mean(found["target_learning"]))
    parts = [f"Behind its own stage, each of {tasks} skills had gained {learned} points of accuracy on average"]
    if found["target_forgetting"] is not None:
        parts.append(f"until the end, those that others followed changed by {points(_mean(found['target_forgetting']))}")
    if found["held_out_forgetting"] is not None:
        parts.append(f"what was never trained changed by {points(_mean(found['held_out_forgetting']))}")
    return "; ".join(parts) + "."


def head() -> list[str]:
    """Column titles for `rows`."""
    return ["order", "seed", *TITLES.values()]


def rows(matrix: Mapping[str, Any]) -> list[list[str]]:
    """A line of cells for each sequence; below, their mean: change in points, mean over tasks with the total in brackets."""
    found = [
        [" → ".join(one["tasks"]), str(one["seed"]), *_cells(one["measures"])] for one in matrix["sequences"] if one["measures"] is not None
    ]
    return [*found, ["mean", "", *_cells(matrix["measures"])]] if len(found) > 1 else found


def table(matrix: Mapping[str, Any]) -> str:
    """The same as plain text."""
    lines = [head(), *rows(matrix)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("─" * width for width in widths), *text[1:], "points of accuracy: mean over tasks (total)"])


def note(order: Mapping[str, Any]) -> str:
    """What a heat map shows."""
    seeds = order["seeds"]
    mean = f"Mean over seeds {', '.join(map(str, seeds))}. " if len(seeds) > 1 else ""
    return (
        f"Order {order['order']}: {' → '.join(order['tasks'])}. {mean}A row for each stage, a column for each task of the suite. The "
        "number is the share of right answers in percent, the colour its change against the base; a frame marks what the stage taught."
    )


def draw(order: Mapping[str, Any], matrix: Mapping[str, Any], folder: Path) -> Path:
    """Writes the heat map of one order; gives its path."""
    import matplotlib

    path = folder / f"order-{order['order']}.png"
    with matplotlib.rc_context(STYLE):
        heat_map(order, matrix["groups"]).savefig(path, metadata={"Software": None})
    return path


def heat_map(order: Mapping[str, Any], groups: Mapping[str, str]) -> Any:
    """Scores behind each stage as numbers, changes against the base as colours that a colour-blind reader can tell apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = _columns(order["tasks"], groups)
    scores = order["scores"]
    changes = [[100 * (row[name] - scores[0][name]) for name in columns] for row in scores]
    largest = max(1.0, *(abs(value) for row in changes for value in row))
    figure = Figure(figsize=(2.2 + 0.62 * len(columns), 2.0 + 0.42 * len(scores)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    image = panel.imshow(changes, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto")
    for down, row in enumerate(scores):
        for across, name in enumerate(columns):
            strong = abs(changes[down][across]) > 0.65 * largest
            panel.text(across, down, f"{100 * row[name]:.0f}", ha="center", va="center", fontsize=9, color="white" if strong else "black")
    for down, name in enumerate(order["tasks"], start=1):
        panel.add_patch(Rectangle((columns.index(name) - 0.5, down - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2))
    panel.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    panel.set_yticks(range(len(scores)), ["base", *(f"{at}. {name}" for at, name in enumerate(order["tasks"], start=1))])
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    _name_groups(panel, columns, groups)
    figure.colorbar(image, ax=panel, label="points against the base", shrink=0.9)
    return figure


def _columns(tasks: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """The suite's tasks by group; the trained ones first, in their order."""
    others = [name for group in GROUPS for name, of in groups.items() if of == group and name not in tasks]
    return [*tasks, *others]


def _name_groups(panel: Any, columns: Sequence[str], groups: Mapping[str, str]) -> None:
    """Writes each group above its columns; a white line parts it from the next."""
    for group in dict.fromkeys(groups[name] for name in columns):
        at = [number for number, name in enumerate(columns) if groups[name] == group]
        panel.text(sum(at) / len(at), -0.62, GROUP_NAMES[group], ha="center", va="bottom", fontsize=9, color="#444444")
        if at[0]:
            panel.axvline(at[0] - 0.5, color="white", linewidth=4)


def _cells(found: Mapping[str, Any]) -> list[str]:
    return ["–" if found[name] is None else f"{points(found[name]['mean'])} ({points(found[name]['total'])})" for name in MEASURES]


def _mean(measure: Mapping[str, Any] | None) -> float | None:
    return None if measure is None else measure["mean"]
