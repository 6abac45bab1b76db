"""Why a preset does not fit a model, in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.layout import Layout, Place
    from model.presets import Term

_EXPERTS = {"experts", "router", "gate"}
_TIED = ("language_model.embed_tokens", "lm_head")


def matches_nothing(model: Any, layout: "Layout", term: "Term", path: str) -> ValueError:
    """A preset without a single parameter in this model."""
    return ValueError(f"preset {term.word!r} matches no parameter of {type(model).__name__} ({path}); {_choose(model, layout)}")


def not_in_layers(model: Any, layout: "Layout", term: "Term", path: str, missing: Sequence[int]) -> ValueError:
    """A path that some layers do not have: fused projections, a mixture of experts, another kind of attention."""
    inner = path.split(".")[3:]
    here = [place for place in layout.places(model) if place.part == "language_model" and place.layer == missing[0]]
    depth = next(
        depth for depth in range(len(inner) - 1, -1, -1) if any(list(place.words[2 : 2 + depth]) == inner[:depth] for place in here)
    )
    block = ".".join(inner[:depth]) or "the layer"
    children = sorted({place.words[2 + depth] for place in here if list(place.words[2 : 2 + depth]) == inner[:depth]})
    kind = "a mixture of experts" if _EXPERTS & set(children) else "other modules"
    which = (
        "every layer" if len(missing) == layout.depth else f"layer {', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}"
    )
    return ValueError(
        f"preset {term.word!r} needs {'.'.join(inner)} in every layer that it trains, but {which} of {type(model).__name__} has {kind} "
        f"there: {block} is made of {', '.join(children)}; {_choose(model, layout)}"
    )


def check_ties(model: Any, terms: Sequence["Term"]) -> None:
    """Refuses a preset that names one of two tied weights, the embeddings or the head, without the other."""
    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return
    named = [any(tied == path or tied.startswith(path + ".") for term in terms for path in term.paths) for tied in _TIED]
    if any(named) and not all(named):
        raise ValueError(
            f"{type(model).__name__} ties lm_head to the embeddings: they are one tensor, so naming {_TIED[named.index(True)]} alone would "
            f"train both; name both ({', '.join(_TIED)}) or neither"
        )


def possible(model: Any, layout: "Layout") -> list[str]:
    """The built-in presets that fit a model."""
    from model.presets import LAYERS, PRESETS

    places = layout.places(model)
    return [name for name, paths in PRESETS.items() if _fits(places, layout, paths, LAYERS)]


def _fits(places: Sequence["Place"], layout: "Layout", paths: Sequence[str], layers: str) -> bool:
    counts = {path: [place for place in places if place.lies_in(path)] for path in paths}
    whole = all(len({place.layer for place in found}) == layout.depth for path, found in counts.items() if path.startswith(layers))
    return whole and any(counts.values())


def _choose(model: Any, layout: "Layout") -> str:
    return f"presets that fit this model: {', '.join(possible(model, layout))}; or write your own in model.presets"
