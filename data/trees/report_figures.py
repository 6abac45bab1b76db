"""The figures of a tree's report, which a colour-blind reader or a grey printer can tell apart."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import whole_file
from data.figures import COLOURS, MARKERS, STYLE

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++", "--")


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes yield_curve.png, lengths.png, dropped.png, map.png into `folder`; gives their paths.

    A figure that there is nothing to draw for is left out; one of an earlier report is removed then.

    Args:
        report: From `data.trees.report.make_report`.
        folder: Made if need be.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure_of in FIGURES.items():
            path, figure = folder / f"{name}.png", figure_of(report)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            with whole_file(path) as partial:
                figure.savefig(partial, format="png", metadata={"Software": None})
            written.append(path)
    return written


def yield_curves(report: Mapping[str, Any]) -> Any:
    """How many of a thousand sampled turns were new, the further each layer went."""
    if not any(report["yield_curve"]):
        return None
    figure, (panel,) = _panels(1, (9.6, 3.6))
    for at, (layer, curve) in enumerate(zip(report["layers"], report["yield_curve"], strict=True)):
        shade, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        across, up = [point["sampled"] for point in curve], [point["new_per_thousand"] for point in curve]
        line = "-" if layer["role"] == "user" else "--"
        panel.plot(across, up, line, color=shade, marker=marker, markersize=4.5, linewidth=1.6, label=layer_name(layer))
    panel.set_xscale("log")
    panel.set(xlabel="turns sampled so far", ylabel="new per thousand sampled", ylim=(-30, 1050))
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    return figure


def lengths(report: Mapping[str, Any]) -> Any:
    """Turns of the exported dialogues, tokens of questions, tokens of answers."""
    if not report["nodes"]:
        return None
    figure, panels = _panels(3, (10.8, 3.2))
    turns = report["turns"]
    panels[0].bar(range(len(turns)), list(turns.values()), color=COLOURS[2], width=0.7)
    panels[0].set_xticks(range(len(turns)), list(turns))
    panels[0].set_xlim(-1, max(2, len(turns)))
    panels[0].set(title="Turns", xlabel="turns of a dialogue", ylabel="dialogues")
    for panel, shade, (kind, found) in zip(panels[1:], COLOURS, report["lengths"].items(), strict=False):
        if found["counts"]:
            edges = np.asarray(found["edges"])
            panel.bar(edges[:-1], found["counts"], np.diff(edges), align="edge", color=shade, edgecolor="white", linewidth=0.4)
            panel.axvline(found["median"], color="#333333", linewidth=1.2, linestyle="--", label=f"median {found['median']:g}")
            panel.legend(frameon=False, fontsize=8.5)
        panel.set(title=f"{kind.capitalize()}s", xlabel=f"tokens of {_article(kind)}", ylabel="turns")
    for panel in panels:
        panel.grid(False, axis="x")
    return figure


def dropped(report: Mapping[str, Any]) -> Any:
    """What was dropped for each reason, stacked by layer."""
    if not report["filters"]:
        return None
    reasons = list(report["filters"])
    figure, (panel,) = _panels(1, (9.6, 1.3 + 0.34 * len(reasons)))
    left = np.zeros(len(reasons))
    for at, layer in enumerate(report["layers"]):
        counts = np.array([layer["dropped"].get(reason, 0) for reason in reasons])
        if counts.any():
            shade, hatch = COLOURS[at % len(COLOURS)], HATCHES[at % len(HATCHES)]
            panel.barh(range(len(reasons)), counts, 0.7, left, color=shade, hatch=hatch, edgecolor="white", lw=0.4, label=layer_name(layer))
        left += counts
    for at, total in enumerate(left):
        panel.annotate(f"{int(total):,}", (total, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    panel.set_yticks(range(len(reasons)), [reason.replace("_", " ") for reason in reasons])
    panel.set_ylim(len(reasons) - 0.5, -0.5)
    panel.set_xlim(0, 1.12 * left.max())
    panel.set(xlabel="turns dropped")
    panel.grid(False, axis="y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    return figure


def map_of_questions(report: Mapping[str, Any]) -> Any:
    """First questions as t-SNE lays them out, the reference hollow behind ours."""
    found = report["map"]
    if found is None:
        return None
    places, corpus = np.asarray(found["points"]), np.asarray(found["corpus"])
    figure, (panel,) = _panels(1, (8.4, 6.4))
    panel.scatter(
        *places[corpus == 1].T, s=16, marker="s", facecolor="none", edgecolor=COLOURS[1], linewidth=0.7, label=reference_name(report)
    )
    panel.scatter(*places[corpus == 0].T, s=14, marker="o", color=COLOURS[0], alpha=0.75, linewidth=0, label="this tree")
    panel.set(xticks=(), yticks=())
    panel.set_aspect("equal", adjustable="datalim")
    if found["shown"]["reference"]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def layer_name(layer: Mapping[str, Any]) -> str:
    """A layer as figures and tables name it, counted from 1."""
    return f"layer {layer['layer'] + 1}, {'questions' if layer['role'] == 'user' else 'answers'}"


def reference_name(report: Mapping[str, Any]) -> str:
    """The other corpus' name."""
    about = report["diversity"]["reference"]
    return "reference" if about is None else str(about["name"])


FIGURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "yield_curve": yield_curves,
    "lengths": lengths,
    "dropped": dropped,
    "map": map_of_questions,
}
"""File name without its end -> what draws it; None where there is nothing to draw."""


def _panels(across: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    """A figure that no window ever shows, with its panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, across, squeeze=False).flat)


def _article(kind: str) -> str:
    return f"{'an' if kind.startswith('a') else 'a'} {kind}"
