"""What trains in a model, as its recipe's `model` section says."""

from typing import Any

from model.config import ModelConfig
from model.manifest import Manifest, Tensor, make_manifest
from model.presets import apply


def choose_what_trains(model: Any, config: ModelConfig, *, steps: int, seed: int) -> tuple[Manifest, Any]:
    """Freezes a model but for a preset's parameters, or for adapters on them, with a gate beside these where it is to be siamese.

    Args:
        model: Changed in place.
        config: The section.
        steps: Optimizer steps to come, for AdaLoRA's schedule.
        seed: Draws the start of adapters and gate.

    Returns:
        The manifest, and PEFT's tuner where there are adapters, else None.

    Raises:
        ValueError: The preset does not fit the model or the method.
    """
    from model.adapters import attach

    if config.adapter is None:
        return apply(model, config.preset, config.presets), None
    tuner, manifest = attach(model, config.adapter, config.preset, config.presets, steps=steps, seed=seed)
    return (manifest if config.method == "plain" else _with_gate(model, config, manifest, seed)), tuner


def _with_gate(model: Any, config: ModelConfig, manifest: Manifest, seed: int) -> Manifest:
    from model.layout import GATE
    from model.siamese import make_siamese

    gate = make_siamese(model, config.gate, seed=seed).gate
    own = [Tensor(name=f"{GATE}.{name}", shape=tuple(one.shape), count=one.numel(), group="gate") for name, one in gate.named_parameters()]
    total = manifest.total_parameters + sum(one.count for one in own)
    return make_manifest(f"{gate.config.kind} gate over {manifest.preset}", [*manifest.tensors, *own], total)
