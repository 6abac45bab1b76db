"""The figure of a sweep: what was kept across, what was learned up, the values of the knob along a line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.figures import COLOURS, STYLE
from train.evaluate.labels import place_labels

ENDS = {"base": ("s", COLOURS[2]), "tuned": ("^", COLOURS[1])}  # told apart by their shapes in grey as well


def draw(found: Mapping[str, Any], path: Path) -> Path:
    """Writes a sweep's figure as PNG.

    Args:
        found: From `train.sweep.summary`.
        path: The file.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure(found).savefig(path, metadata={"Software": None})
    return path


def figure(found: Mapping[str, Any]) -> Any:
    """Retention across, target up, both in points: values joined in order, both ends, the rule's limit, the chosen value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7.2, 4.8), layout="constrained")
    FigureCanvasAgg(drawn)
    panel = drawn.subplots()
    swept = [one for one in found["points"] if one["value"] is not None]
    places = [_place(one) for one in swept]
    panel.plot(*zip(*places, strict=True), color=COLOURS[0], linewidth=1.6, marker="o", markersize=6, zorder=3, label=found["knob"])
    for one in found["points"]:
        if one["name"] in ENDS:
            marker, colour = ENDS[one["name"]]
            look = {"s": 130, "marker": marker, "facecolor": "none", "edgecolor": colour, "linewidth": 1.8, "zorder": 4}
            panel.scatter(*_place(one), label=one["name"], **look)
    if found["best"] is not None:
        best = _place(next(one for one in swept if one["value"] == found["best"]))
        panel.scatter(*best, s=240, marker="o", facecolor="none", edgecolor="black", linewidth=1.2, zorder=4, label="chosen")
    panel.axvline(-found["rule"], color="#777777", linewidth=1, linestyle="--", zorder=2, label=f"at most {found['rule']:g} lost")
    panel.set(
        title=f"{found['command']} on {found['suite']}",
        xlabel="retention: points gained or lost on held-out tasks",
        ylabel=f"{found['target_task'] or 'target'}: correct, %",
    )
    panel.margins(x=0.14, y=0.14)
    drawn.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    drawn.canvas.draw()
    place_labels(panel, places, [f"{one['value']:g}" for one in swept], [COLOURS[0]] * len(swept))
    return drawn


def _place(one: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * one["retention"], 100 * one["target"]
