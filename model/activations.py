"""An estimate of what a training step keeps between its forward and its backward pass."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from model.layout import Place, layout_of
from model.memory import BYTES, FP32, Precision

HELD = 3  # tensors of a chunk's logits that a loss holds at once, float32


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass of one GPU.

    Attributes:
        rows: Its rows.
        width: Tokens of a row, padding among them.
        positions: What goes through the vision tower: patches, and class tokens where it has them.
        chunk: Logits that exist at once.
    """

    rows: int
    width: int
    positions: int = 0
    chunk: int = 0


@dataclass(frozen=True, kw_only=True)
class Means:
    """How a step is computed.

    Attributes:
        precision: Of activations.
        checkpointing: Whether layers keep their input alone and compute the rest again.
        eager: Whether attention keeps its square of scores.
        partitioned: Whether weights are partitioned: ZeRO-3's linear layers keep their inputs, though the weight is frozen.
    """

    precision: Precision
    checkpointing: bool = False
    eager: bool = False
    partitioned: bool = False


def estimate(model: Any, trainable: Collection[str], batch: Batch, means: Means) -> int:
    """Bytes of activations at the fullest moment of a step, estimated; kernels' workspaces and fragments of memory are not in it.

    Counts what PyTorch keeps for pre-norm layers with a gated MLP, as LLaMA and Qwen have: each norm's input in float32; queries, keys,
    values, attention's output; three inner tensors of the MLP; the inputs of those matrices alone that train. Layers below everything
    that trains keep nothing, but under checkpointing their inputs. The tower's layers have a plain MLP.

    Args:
        model: LLaVA-style or text-only, on any device, adapters in it or not.
        trainable: Names of the parameters that train.
        batch: Shape of a forward pass.
        means: How it is computed.
    """
    places = [place for place in layout_of(model.config).places(model) if place.name in trainable]
    text = model.config.get_text_config()
    tokens = batch.rows * batch.width
    found = _language(text, places, batch, means) + _tower(model.config, places, batch, means)
    found += HELD * FP32 * min(batch.chunk, tokens * text.vocab_size)
    has_head = any(place.part == "lm_head" or "embed_tokens" in place.words for place in places)
    return found + (FP32 * text.vocab_size * text.hidden_size if has_head else 0)  # its gradient, summed over chunks


def _language(text: Any, places: Collection[Place], batch: Batch, means: Means) -> int:
    size, tokens = BYTES[means.precision], batch.rows * batch.width
    outside = any(place.part in ("vision_tower", "projector") or "embed_tokens" in place.words for place in places)
    layers = [place.layer for place in places if place.part == "language_model" and place.layer is not None]
    count = text.num_hidden_layers - (0 if outside else min(layers, default=text.num_hidden_layers))
    words = {word for place in places if place.layer is not None for word in place.words}
    attention = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kept = 2 * attention * (1 + text.num_key_value_heads / text.num_attention_heads) + 3 * text.intermediate_size
    every = means.partitioned
    kept += text.hidden_size * sum(every or bool(words & group) for group in ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}))
    kept += text.intermediate_size * (every or "down_proj" in words) + 2 * text.hidden_size * ("input_layernorm" in words)
    scores = (FP32 + size) * text.num_attention_heads * batch.width if means.eager else 0
    inner = tokens * round(size * kept + 2 * FP32 * text.hidden_size + scores)
    return _layers(text.num_hidden_layers, count, tokens * size * text.hidden_size, inner, means.checkpointing)


def _tower(config: Any, places: Collection[Place], batch: Batch, means: Means) -> int:
    """All of the vision tower's layers where it trains, else one of them at work."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0
    size = BYTES[means.precision] * batch.positions
    depth = getattr(vision, "num_hidden_layers", None) or vision.depth
    inner = size * (6 * vision.hidden_size + 2 * vision.intermediate_size)
    trains = any(place.part == "vision_tower" for place in places)
    return _layers(depth, depth, size * vision.hidden_size, inner, means.checkpointing) if trains else inner


def _layers(depth: int, count: int, entry: int, inner: int, checkpointing: bool) -> int:
    """Layers that keep everything, or, all of them, their inputs alone beside one that is computed again."""
    if count == 0:
        return 0
    return depth * entry + inner if checkpointing else count * inner
