"""Preset name -> the parameters that train."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.layout import PARTS, Layout, Place, is_reachable, layout_of
from model.manifest import Manifest, Tensor, make_manifest
from model.mismatch import check_ties, matches_nothing, not_in_layers

if TYPE_CHECKING:
    from torch.nn import Parameter

# Paths of modules: the first word is a part of the model, "*" stands for exactly one word. A module's own tensors all train, its bias
# too (Qwen2's q, k and v have one). Presets of single blocks train neither norms (nor Qwen3's norms of queries and keys), nor embeddings,
# nor the head; "llm" and "full" train all of these (arXiv 2510.08564, released code).
LAYERS = "language_model.layers.*"
_QKV = tuple(f"{LAYERS}.self_attn.{name}_proj" for name in "qkv")
_SA = (*_QKV, f"{LAYERS}.self_attn.o_proj")
_GATE_UP = tuple(f"{LAYERS}.mlp.{name}_proj" for name in ("gate", "up"))
_DOWN = (f"{LAYERS}.mlp.down_proj",)

PRESETS: dict[str, tuple[str, ...]] = {
    "full": PARTS,
    "llm": ("language_model", "lm_head"),
    "llm_blocks": (*_SA, *_GATE_UP, *_DOWN),
    "sa_proj": _SA,
    "sa_qkv": _QKV,
    "mlp": (*_GATE_UP, *_DOWN),
    "mlp_gate_up": _GATE_UP,
    "mlp_down": _DOWN,
    "projector": ("projector",),
    "vision": ("vision_tower",),
}

_TERM = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\[(?P<first>-?\d*)(?P<colon>:)?(?P<last>-?\d*)\])?")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One preset of a sum as it was written, its name, its module paths, the language layers that it is restricted to."""

    word: str
    name: str
    paths: tuple[str, ...]
    layers: slice | None = None


def parse(preset: str, custom: Mapping[str, Sequence[str]] | None = None) -> tuple[Term, ...]:
    """Splits "sa_proj[8:24]+projector" into its terms.

    Args:
        preset: Names joined by "+"; each may have a range of language layers as Python slices write it, negative numbers from the end.
        custom: Presets of a recipe's own: name -> module paths as in `PRESETS`.

    Raises:
        ValueError: A name is unknown (the message has the nearest one), a range is no range, a custom preset is wrong.
    """
    known = PRESETS | _checked_custom(custom or {})
    terms = []
    for word in preset.split("+"):
        match = _TERM.fullmatch(word.strip())
        if match is None or match["name"] not in known:
            name = match["name"] if match else word.strip()
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"unknown preset {word.strip()!r}; did you mean {near!r}? Presets: {', '.join(known)}; join several with '+', "
                "restrict one to layers with [first:last]"
            )
        terms.append(Term(word=word.strip(), name=match["name"], paths=tuple(known[match["name"]]), layers=_layers(match, known)))
    return tuple(terms)


def select(model: Any, preset: str, custom: Mapping[str, Sequence[str]] | None = None) -> dict[str, "Parameter"]:
    """The parameters that a preset trains, by name, in the model's order.

    Parameters that no gradient can reach, such as tower layers above the one that is read, are left out. The model may be on the meta
    device: a preset can be checked before any weight is loaded.

    Raises:
        ValueError: The name is unknown; a path matches nothing in this model, or not in every layer (fused projections, mixtures of
            experts); a range holds no layer; of two tied weights only one is named.
    """
    layout = layout_of(model.config)
    places = layout.places(model)
    terms = parse(preset, custom)
    check_ties(model, terms)
    chosen = {place.name for term in terms for place in _of_term(model, layout, places, term)}
    return {name: parameter for name, parameter in model.named_parameters() if name in chosen}


def apply(model: Any, preset: str, custom: Mapping[str, Sequence[str]] | None = None) -> Manifest:
    """Lets exactly the preset's parameters train; gives the manifest."""
    chosen = select(model, preset, custom)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    layout = layout_of(model.config)
    tensors = [Tensor(name=name, shape=tuple(one.shape), count=one.numel(), group=layout.part_of(name)) for name, one in chosen.items()]
    return make_manifest(preset, tensors, sum(parameter.numel() for parameter in model.parameters()))


def _checked_custom(custom: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    for name, paths in custom.items():
        if name in PRESETS:
            raise ValueError(f"preset {name!r} is built in; give yours another name")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"preset name {name!r}: use letters, digits and underscores")
        if not paths:
            raise ValueError(f"preset {name!r} has no path; give module paths such as language_model.layers.*.self_attn.v_proj")
        for path in paths:
            if path.split(".")[0] not in PARTS:
                raise ValueError(f"preset {name!r}: path {path!r} begins with no part of the model; begin with one of {', '.join(PARTS)}")
    return {name: tuple(paths) for name, paths in custom.items()}


def _layers(match: re.Match[str], known: Mapping[str, Sequence[str]]) -> slice | None:
    if "[" not in match[0]:
        return None
    if not all(path.startswith(LAYERS) for path in known[match["name"]]):
        raise ValueError(f"preset {match[0]!r}: {match['name']} is not made of language layers, so no range can be given")
    first, last = (int(text) if text and text != "-" else None for text in (match["first"], match["last"]))
    if match["colon"]:
        return slice(first, last)
    if first is None:
        raise ValueError(f"preset {match[0]!r}: an empty range; write {match['name']}[8:24], [-4:] or [3]")
    return slice(first, first + 1 if first != -1 else None)


def _of_term(model: Any, layout: Layout, places: Sequence[Place], term: Term) -> list[Place]:
    """Every place that a term trains; each of its paths must match, in every layer of its range."""
    found: list[Place] = []
    for path in term.paths:
        here = [place for place in places if place.lies_in(path)]
        if path.startswith(LAYERS):
            wanted = range(layout.depth)[term.layers] if term.layers else range(layout.depth)
            if not wanted:
                raise ValueError(f"preset {term.word!r} holds no layer; the model has {layout.depth}, from 0 to {layout.depth - 1}")
            missing = sorted(set(wanted) - {place.layer for place in here})
            if missing:
                raise not_in_layers(model, layout, term, path, missing)
            here = [place for place in here if place.layer in wanted]
        elif not here and term.name not in PRESETS:
            raise matches_nothing(model, layout, term, path)
        found += here
    if not found:
        raise matches_nothing(model, layout, term, " and ".join(term.paths))
    reachable = [place for place in found if is_reachable(place.name, model.config)]
    if not reachable:
        raise ValueError(
            f"preset {term.word!r}: no gradient reaches any of its {len(found)} tensors, since the projector reads a layer below them"
        )
    return reachable
