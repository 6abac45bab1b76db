"""The optimizer with its parameter groups."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from model.manifest import Manifest
from train.config import PartConfig, TrainConfig

PARTS = {"vision_tower": "vision", "projector": "projector", "language_model": "llm", "lm_head": "llm", "gate": "gate"}


def with_rates(model: nn.Module, manifest: Manifest, config: TrainConfig) -> Manifest:
    """Gives each tensor of a manifest its learning rate and weight decay.

    Matrices decay; biases, norms and embeddings do not. Rates for a part that does not train have no effect, which is warned of.
    """
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    parameters = dict(model.named_parameters())
    tensors = []
    for tensor in manifest.tensors:
        part = getattr(config.parts, PARTS[tensor.group])
        rate = config.learning_rate if part.learning_rate is None else part.learning_rate
        decay = config.weight_decay if part.weight_decay is None else part.weight_decay
        decays = len(tensor.shape) > 1 and id(parameters[tensor.name]) not in embeddings
        tensors.append(replace(tensor, learning_rate=rate, weight_decay=decay if decays else 0.0))
    trained = {PARTS[tensor.group] for tensor in tensors}
    idle = [name for name, part in config.parts if part != PartConfig() and name not in trained]
    if idle:
        warnings.warn(
            f"train.parts.{', train.parts.'.join(idle)}: no effect, since preset {manifest.preset!r} trains nothing there", stacklevel=2
        )
    return replace(manifest, tensors=tuple(tensors))


def parameter_groups(model: nn.Module, manifest: Manifest) -> list[dict[str, Any]]:
    """The manifest's parameters, a group for each pair of learning rate and weight decay."""
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float | None, float | None], list[nn.Parameter]] = {}
    for tensor in manifest.tensors:
        groups.setdefault((tensor.learning_rate, tensor.weight_decay), []).append(parameters[tensor.name])
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def build_optimizer(model: nn.Module, manifest: Manifest) -> torch.optim.AdamW:
    """AdamW with PyTorch's betas (0.9, 0.999), all parameters of a group in one kernel."""
    return torch.optim.AdamW(parameter_groups(model, manifest), betas=(0.9, 0.999), eps=1e-8, fused=True)
