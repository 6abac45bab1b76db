"""LiNeS: the update of a model scaled layer by layer, little below, much above."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.interpolate import names_inside, scale_update, without_weights
from model.layout import layout_of

Factors = Callable[[str], float]


def factors(model: Any, first: float, last: float) -> Factors:
    """The factor of each tensor's update (LiNeS, arXiv 2410.17146): first + (last - first) × (l - 1) / (L - 1) in layer l of L.

    The formula speaks of layers alone. Our reading of the rest: what lies before the layers (vision tower, projector, embeddings) has the
    factor of the first, what lies behind them (final norm, head) that of the last; a head that is tied to the embeddings is one tensor with
    them, so it counts as lying before; the only layer of a model is its last.

    Args:
        model: Of a family that `model.layout` knows, on any device.
        first: Factor of the first layer, alpha in the paper.
        last: Factor of the last layer, alpha + beta in the paper.

    Returns:
        Name of a parameter -> its factor; what is no parameter has the first's.
    """
    layout = layout_of(model.config)
    found: dict[str, float] = {}
    behind = False
    for place in layout.places(model):
        if place.layer is not None and place.part == "language_model":
            behind = True  # a model's parameters are in the order of its modules: embeddings, layers, final norm
            share = place.layer / (layout.depth - 1) if layout.depth > 1 else 1.0
            found[place.name] = first * (1 - share) + last * share  # exact at both ends
        else:
            above = place.part == "lm_head" or (behind and place.part == "language_model")
            found[place.name] = last if above else first
    return lambda name: found.get(name, first)


def lines(before: Path, after: Path, first: float, last: float, output: Path) -> Path:
    """Writes the model whose update is scaled by `factors`; files, dtypes, errors as of `model.interpolate.scale_update`.

    Args:
        before: Folder of the model before tuning.
        after: Folder of the tuned model.
        first: Factor of the first layer.
        last: Factor of the last layer.
        output: Folder to write.

    Raises:
        ValueError: A tensor in the files of `after` is none of the model's, so that nobody knows its layer; or the family is unknown.
    """
    model = without_weights(after)
    inside, factor_of = names_inside(model), factors(model, first, last)

    def factor_of_stored(name: str) -> float:
        if name not in inside:
            raise ValueError(f"{after}: {name} is no tensor of the model, so its layer is unknown; load it, save it, give that folder")
        return factor_of(inside[name])

    return scale_update(before, after, factor_of_stored, output)
