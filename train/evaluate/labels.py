"""Puts names beside the points of a scatter plot so that none covers another."""

from collections.abc import Sequence
from typing import Any

# Where a label may stand, in typographic points from its point, the best place first: near ones beside, then further ones.
_PLACES = [
    (across * reach, down * reach * 0.8)
    for reach in (9, 16, 24, 34, 46)
    for across, down in ((1, 0), (-1, 0), (0.6, 1), (0.6, -1), (-0.6, 1), (-0.6, -1), (0, 1.3), (0, -1.3))
]
_FAR = 14  # from here on a thin line leads to the point


def place_labels(panel: Any, points: Sequence[tuple[float, float]], texts: Sequence[str], colours: Sequence[str]) -> None:
    """Annotates each point of a drawn matplotlib panel, one after another, at the first place that is free.

    Args:
        panel: Axes of a figure whose canvas has been drawn once, so that the layout is final.
        points: Data coordinates.
        texts: One label for each point.
        colours: The leading lines' colours.
    """
    from matplotlib.patheffects import withStroke

    figure = panel.figure
    figure.set_layout_engine("none")
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    inside = panel.get_window_extent(renderer)
    centres = [tuple(panel.transData.transform(point)) for point in points]
    taken = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in centres]
    for at in sorted(range(len(points)), key=lambda i: (-centres[i][0], centres[i][1])):
        probe = panel.annotate(texts[at], points[at], fontsize=9, annotation_clip=False)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        best = min(
            ((_cost(_box(centres[at], place, extent, scale), taken, inside), order, place) for order, place in enumerate(_PLACES)),
            key=lambda option: option[:2],
        )[2]
        taken.append(_box(centres[at], best, extent, scale))
        far = max(map(abs, best)) >= _FAR
        label = panel.annotate(
            texts[at],
            points[at],
            xytext=best,
            textcoords="offset points",
            ha=_side(best[0]),
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colours[at], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4} if far else None,
        )
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # readable where it crosses a grid line


def _side(across: float) -> str:
    return "left" if across > 0 else "right" if across < 0 else "center"


def _box(centre: tuple[float, ...], place: tuple[float, float], extent: Any, scale: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top in pixels of a label at `place`."""
    width, height = extent.width, extent.height
    x, y = centre[0] + place[0] * scale, centre[1] + place[1] * scale
    left = {"left": x, "right": x - width, "center": x - width / 2}[_side(place[0])]
    return left - 2, y - height / 2, left + width + 2, y + height / 2


def _cost(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]], inside: Any) -> float:
    """Area in pixels of `box` that others cover or that lies outside the panel."""
    covered = sum(_overlap(box, other) for other in taken)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return covered + area - _overlap(box, (inside.x0, inside.y0, inside.x1, inside.y1))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    across, up = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * up if across > 0 and up > 0 else 0.0
