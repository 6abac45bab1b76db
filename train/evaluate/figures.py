"""The report's figures, as PNG files that a colour-blind reader or a grey printer can tell apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.figures import COLOURS, MARKERS, STYLE
from train.evaluate.comparison import groups_of, label, rows
from train.evaluate.labels import place_labels

GROUP_STYLES = {"target": ("#D55E00", "////"), "held_out_visual": ("#0072B2", ""), "held_out_text": ("#009E73", "....")}
GROUP_NAMES = {"target": "target", "held_out_visual": "held-out images", "held_out_text": "held-out text"}


def draw_all(runs: Sequence[dict[str, Any]], base: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Writes frontier.png, bars.png, drift.png into `folder`; gives their paths by name. The drift is left out where unmeasured."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {"frontier": frontier(runs, base), "bars": bars(runs, base)}
        if base.get("number_token_probability") is not None:
            figures["drift"] = drift(runs, base)
        paths = {name: folder / f"{name}.png" for name in figures}
        for name, figure in figures.items():
            figure.savefig(paths[name], metadata={"Software": None})
    return paths


def frontier(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> Any:
    """What was learned against what was lost: a point for each run, a panel for each held-out group."""
    found = rows(runs, base)
    styles, groups = _styles(runs), groups_of(found)
    kinds = [(key, name) for key, name in (("text_change", "text"), ("visual_change", "images")) if found[0][key] is not None]
    figure, panels = _panels(1, max(1, len(kinds)), (10.8, 4.8) if len(kinds) > 1 else (7.2, 4.8), sharey=True)
    target = found[0]["target_task"] or "target"
    for panel, (key, name) in zip(panels, kinds, strict=False):
        points = [(100 * (row["target_after"] - row["target_before"]), 100 * row[key]) for row in found]
        for (x, y), row in zip(points, found, strict=True):
            colour, marker = styles[row["name"]]
            solid = (row["group"] or "") == groups[0]
            panel.scatter(x, y, s=62, marker=marker, facecolor=colour if solid else "none", edgecolor=colour, linewidth=1.6, zorder=3)
        panel.axhline(0, color="#777777", linewidth=1, zorder=2)
        panel.set(title=f"Held-out {name}", xlabel=f"{target}: points gained")
        panel.margins(x=0.24, y=0.16)
    panels[0].set_ylabel("held-out: points gained or lost")
    if len(groups) > 1:
        for at, group in enumerate(groups):
            panels[0].scatter([], [], s=50, marker="o", facecolor="none" if at else "#555555", edgecolor="#555555", label=group)
        figure.legend(loc="outside lower center", ncols=len(groups), frameon=False, fontsize=9)
    figure.canvas.draw()
    for panel, (key, _) in zip(panels, kinds, strict=False):
        # A way whose two rates are one stands at one point, under one label.
        marks = dict.fromkeys((row["name"], 100 * (row["target_after"] - row["target_before"]), 100 * row[key]) for row in found)
        place_labels(panel, [(x, y) for _, x, y in marks], [name for name, _, _ in marks], [styles[name][0] for name, _, _ in marks])
    return figure


def bars(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> Any:
    """Every task after tuning as a bar with its 95 % interval, before tuning as a black line; a panel for each run."""
    names = sorted(base["tasks"], key=lambda name: list(GROUP_STYLES).index(base["tasks"][name]["group"]))
    across = min(4, len(runs))
    down = -(-len(runs) // across)
    size = (max(7.2, 1.6 + 2.3 * across), 0.9 + down * (0.5 + 0.24 * len(names)))
    figure, panels = _panels(down, across, size, sharex=True, sharey=True)
    for panel, run in zip(panels, runs, strict=False):
        for at, name in enumerate(names):
            task, before = run["evaluation"]["tasks"][name], 100 * base["tasks"][name]["accuracy"]
            colour, hatch = GROUP_STYLES[task["group"]]
            low, high = (100 * end for end in task["interval"])
            panel.barh(at, 100 * task["accuracy"], height=0.68, color=colour, alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0)
            panel.plot([low, high], [at, at], color="#333333", linewidth=0.9)
            panel.plot([before, before], [at - 0.42, at + 0.42], color="black", linewidth=2.2, solid_capstyle="butt")
        panel.set(title=label(run, runs).replace(", ", "\n"), xlim=(0, 102), xticks=(0, 50, 100))
        panel.grid(False, axis="y")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for panel in panels[len(runs) :]:
        panel.set_visible(False)
    figure.supxlabel("correct, %", fontsize=10)
    handles = _bar_legend({base["tasks"][name]["group"] for name in names})
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def drift(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> Any:
    """Probability of a number token on unrelated questions: hollow before tuning, filled after."""
    found = rows(runs, base)
    styles = _styles(runs)
    figure, (panel,) = _panels(1, 1, (10.8, 1.2 + 0.36 * len(runs)))
    before = 100 * base["number_token_probability"]
    largest = max([before, *(100 * (row["number_probability_after"] or 0) for row in found)])
    for at, row in enumerate(found):
        after, (colour, marker) = 100 * (row["number_probability_after"] or 0), styles[row["name"]]
        panel.plot([before, after], [at, at], color=colour, linewidth=2, zorder=2)
        panel.scatter(before, at, s=42, marker="o", facecolor="white", edgecolor="#333333", linewidth=1.4, zorder=3)
        panel.scatter(after, at, s=58, marker=marker, color=colour, zorder=4)
        panel.annotate(f"{after:.2f} %", (max(after, before), at), xytext=(9, 0), textcoords="offset points", va="center", fontsize=9)
    panel.set_yticks(range(len(found)), [row["label"] for row in found])
    panel.set_ylim(len(found) - 0.5, -0.5)
    panel.set_xlim(-0.02 * (largest or 1), 1.18 * (largest or 1))
    panel.grid(False, axis="y")
    panel.set(title=f"Before tuning: {before:.2f} % (hollow)", xlabel="number-token probability on questions that ask for no number, %")
    return figure


def _styles(runs: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Colour with marker for each way of tuning; the same way looks the same in every group."""
    names = list(dict.fromkeys(run["name"] for run in runs))
    return {name: (COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]) for at, name in enumerate(names)}


def _panels(down: int, across: int, size: tuple[float, float], **shared: bool) -> tuple[Any, list[Any]]:
    """A figure that no window ever shows, with its panels in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, **shared).flat)


def _bar_legend(groups: set[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0, label=GROUP_NAMES[group])
        for group, (colour, hatch) in GROUP_STYLES.items()
        if group in groups
    ]
    return [
        *patches,
        Line2D([], [], color="black", linewidth=2.2, label="before tuning"),
        Line2D([], [], color="#333333", linewidth=0.9, label="95 % interval"),
    ]
