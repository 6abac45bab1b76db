"""Floating-point operations of a training step, from shapes alone."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from model.layout import Place, is_reachable, layout_of
from model.siamese import of

# Where in its layer a module stands: what stands earlier hands its output on to what stands later. Word of a name -> rank.
_INPUT_NORM, _INTO_ATTENTION, _HEAD_NORM, _ATTENTION, _OUT_OF_ATTENTION, _MIDDLE_NORM, _INTO_MLP, _OUT_OF_MLP = range(8)
_RANKS = {
    **dict.fromkeys(("input_layernorm", "layer_norm1", "norm1"), _INPUT_NORM),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv"), _INTO_ATTENTION),
    **dict.fromkeys(("q_norm", "k_norm"), _HEAD_NORM),
    **dict.fromkeys(("o_proj", "out_proj", "proj"), _OUT_OF_ATTENTION),
    **dict.fromkeys(("post_attention_layernorm", "layer_norm2", "norm2"), _MIDDLE_NORM),
    **dict.fromkeys(("gate_proj", "up_proj", "fc1", "linear_fc1"), _INTO_MLP),
    **dict.fromkeys(("down_proj", "fc2", "linear_fc2"), _OUT_OF_MLP),
}
_PARTS = {"vision_tower": 0, "projector": 1, "language_model": 2, "gate": 3, "lm_head": 4}
_LOOKUPS = {"embed_tokens", "position_embedding", "pos_embed"}  # tables that are read, not multiplied with
_BELOW, _ABOVE = -1, 10**6  # layer numbers of what stands before the first layer, behind the last
_LAST_IN_ADAPTER = "lora_B"

Depth = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What steps hold; numbers, or arrays with one number for each step.

    Attributes:
        tokens: Real tokens in the language model, pictures' among them, padding not.
        pairs: Pairs of tokens that causal attention scores: n (n + 1) / 2 for a sample of n.
        labels: Tokens that carry loss.
        patches: Patches that the tower's first layer makes of the pictures.
        positions: What goes through the tower's layers: the patches, and a class token for each tile where the tower has one.
        position_pairs: Pairs that the tower's attention scores, over whole tiles (Qwen-VL: whole pictures).
        window_pairs: Pairs that layers score whose attention stays within windows (Qwen2.5-VL).
        projected: Rows that go through the projector.
    """

    tokens: Any = 0
    pairs: Any = 0
    labels: Any = 0
    patches: Any = 0
    positions: Any = 0
    position_pairs: Any = 0
    window_pairs: Any = 0
    projected: Any = 0


@dataclass(frozen=True, kw_only=True)
class Costs(Work):
    """Floating-point operations, forward and backward, for one of each thing that `Work` counts."""

    def of(self, work: Work) -> Any:
        """Operations of this work: a float, or float64 [steps] where it holds arrays."""
        return sum(getattr(self, one.name) * getattr(work, one.name) for one in fields(self))


def step_costs(model: Any, trainable: Collection[str]) -> Costs:
    """What a model's training costs.

    Definition: matrix products alone, one multiplication with its addition being 2 operations. Forward: every matrix, the scores of
    attention, their products with the values; attention of the language model is causal, so half of a square; the vision tower is
    included, up to the layer that is read; the head works at positions with a label only. Backward: once as much for the gradient of each
    weight that trains, once as much for the gradient of each input below which something trains; what stands below everything that
    trains costs its forward pass alone. A siamese model's base goes forward besides where its twin differs. Nothing that is computed again
    (checkpointed activations, flash attention's scores) counts, nor dropout, norms, optimizer.

    Args:
        model: Its names and shapes are read; may be on the meta device, hold adapters, be partitioned by ZeRO-3.
        trainable: Names of the parameters that train.

    Raises:
        ValueError: The model's family is not in model/layout.py.
    """
    config = model.config
    places = {place.name: place for place in layout_of(config).places(model)}
    lowest = min((_depth(places[name]) for name in trainable), default=None)
    costs = dict.fromkeys((one.name for one in fields(Costs)), 0.0)
    fork = siamese.fork.first if (siamese := of(model)) is not None else None
    for name, parameter in model.named_parameters():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        thing = _multiplies(places[name], shape)
        if thing is not None and is_reachable(name, config):
            again = name not in trainable and _runs_twice(places[name].layer, fork)
            costs[thing] += 2 * prod(shape) * (_passes(_depth(places[name]), name in trainable, lowest) + again)
    if "lm_head" not in {place.part for place in places.values()}:  # tied to the embeddings: multiplied with all the same
        table = next(name for name, place in places.items() if "embed_tokens" in place.words)
        size = prod(tuple(getattr(model.get_parameter(table), "ds_shape", model.get_parameter(table).shape)))
        costs["labels"] += 2 * size * _passes((_PARTS["lm_head"], 0, 0, 0), table in trainable, lowest)
    for thing, part, layer, width in _attentions(config):
        # Two products forward; of each, both factors need a gradient.
        trains_below = lowest is not None and lowest < (_PARTS[part], layer, _ATTENTION, 0)
        costs[thing] += 4 * width * ((3 if trains_below else 1) + (part == "language_model" and _runs_twice(layer, fork)))
    return Costs(**costs)


def _runs_twice(layer: int | None, fork: int | None) -> bool:
    """Whether a language layer stands where a siamese model's base and twin differ."""
    return layer is not None and fork is not None and layer >= fork


def _passes(depth: Depth, trains: bool, lowest: Depth | None) -> int:
    """How often a matrix is multiplied with: forward, for its own gradient, for its input's."""
    return 1 + trains + (lowest is not None and lowest < depth)


def _multiplies(place: Place, shape: tuple[int, ...]) -> str | None:
    """Which of the things in `Work` a parameter is multiplied with, each once; None for what is no matrix."""
    if len(shape) < 2 or min(shape[:2]) == 1 or _LOOKUPS & set(place.words):
        return None
    if place.part == "vision_tower":
        return "patches" if len(shape) > 2 else "positions"
    return {"projector": "projected", "language_model": "tokens", "gate": "labels", "lm_head": "labels"}[place.part]


def _depth(place: Place) -> Depth:
    """How far from the inputs a parameter stands: part, layer, rank in its layer, rank in its adapter."""
    numbers = [int(word) for word in place.words if word.isdigit()]
    within = place.part in ("vision_tower", "language_model") and bool(numbers)
    layer = numbers[0] if within else _BELOW if {"embeddings", "patch_embed", *_LOOKUPS} & set(place.words) else _ABOVE
    if place.part == "projector":
        layer = _rank_in_projector(place)
    rank = next((_RANKS[word] for word in place.words if word in _RANKS), 0) if within else 0
    return _PARTS[place.part], layer, rank, int(_LAST_IN_ADAPTER in place.words)


def _rank_in_projector(place: Place) -> int:
    """LLaVA's projectors have linear_1, linear_2; Qwen's mergers a norm, then mlp.0, mlp.2, or linear_fc1, linear_fc2."""
    later = {"linear_2", "linear_fc2"} & set(place.words) or place.words[-3:-1] == ("mlp", "2")
    norm = {"ln_q", "norm"} & set(place.words)
    return 2 if later else 0 if norm else 1


def _attentions(config: Any) -> list[tuple[str, str, int, int]]:
    """Each layer's attention: the pairs that it scores, the layer's part, its number, its width (heads x size of a head)."""
    text = getattr(config, "text_config", config)
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    found = [("pairs", "language_model", layer, width) for layer in range(text.num_hidden_layers)]
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return found
    whole = getattr(vision, "fullatt_block_indexes", None)
    for layer in range(tower_depth(config)):
        pairs = "position_pairs" if whole is None or layer in whole else "window_pairs"
        found.append((pairs, "vision_tower", layer, vision.hidden_size))
    return found


def tower_depth(config: Any) -> int:
    """Layers of the vision tower that are read: those up to `vision_feature_layer`, or all (Qwen-VL)."""
    vision = config.vision_config
    layers = getattr(vision, "num_hidden_layers", None) or vision.depth
    layer = getattr(config, "vision_feature_layer", None)
    if layer is None:
        return int(layers)
    return int(max(one if one >= 0 else layers + 1 + one for one in ([layer] if isinstance(layer, int) else layer)))
