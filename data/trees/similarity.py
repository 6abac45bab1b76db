"""The histogram of similarities from which a user chooses a threshold."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.atomic import whole_file, write_json

BINS = 100
THRESHOLDS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)  # for which the share above is written down

_BLOCK = 2048


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Highest cosine of each text to any earlier one: time grows with the square of their number.

    Args:
        vectors: Unit vectors, float32 [texts, dimension].

    Returns:
        float32 [texts]; the first has no earlier one, so its value is -1.
    """
    highest = np.full(len(vectors), -1.0, np.float32)
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        for start in range(0, first + len(block), _BLOCK):
            products = block @ vectors[start : start + _BLOCK].T
            if start == first:
                products[np.triu_indices(len(block))] = -1.0
            np.maximum(highest[first : first + len(block)], products.max(axis=1), out=highest[first : first + len(block)])
    return np.clip(highest, -1.0, 1.0)


def draw_histogram(similarities: Sequence[float] | np.ndarray, path: Path, threshold: float | None = None) -> Path:
    """Draws how alike texts are to those before them, with the bins as JSON beside the picture.

    Args:
        similarities: Of each text the highest cosine to any earlier one, as `nearest` gives them; -1 (no earlier one) is left out.
        path: PNG file to write. Beside it, with `.json`, go `texts`, `edges`, `counts`, `share_above` (by threshold: it drops no more).
        threshold: Marked by a line; None: none was chosen yet.

    Returns:
        `path`.

    Raises:
        ValueError: There is nothing to draw.
    """
    values = np.asarray(similarities, np.float64)
    values = values[values > -1.0]
    if not len(values):
        raise ValueError(f"{path}: got no similarities to draw, expected those of two texts or more")
    counts, edges = np.histogram(values, BINS, (min(0.9, math.floor(values.min() * 20) / 20), 1.0))
    _draw(counts, edges, path, threshold)
    chosen = sorted({*THRESHOLDS, *([] if threshold is None else [threshold])})
    record = {
        "texts": len(values),
        "threshold": threshold,
        "edges": [round(edge, 6) for edge in edges.tolist()],
        "counts": counts.tolist(),
        "share_above": {f"{one:g}": float((values > one).mean()) for one in chosen},
    }
    write_json(path.with_suffix(".json"), record)
    return path


def _draw(counts: np.ndarray, edges: np.ndarray, path: Path, threshold: float | None) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.0, 3.4), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        panel.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#4477aa", edgecolor="white", linewidth=0.3)
        if threshold is not None:
            panel.axvline(threshold, color="#333333", linewidth=1.2, linestyle="--", label=f"threshold {threshold:g}")
            panel.legend(frameon=False, loc="upper left")
        panel.set(xlim=(edges[0], edges[-1]), xlabel="highest cosine to any earlier text", ylabel="texts")
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", metadata={"Software": None})
