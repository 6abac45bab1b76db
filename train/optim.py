"""The optimizer with its parameter groups."""

from collections.abc import Iterable

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices, which decay; biases, norms and embeddings, which do not."""
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [parameter for parameter in trainable if parameter.ndim > 1 and id(parameter) not in embeddings]
    chosen = {id(parameter) for parameter in decays}
    rest = [parameter for parameter in trainable if id(parameter) not in chosen]
    groups: Iterable[dict[str, object]] = ({"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with PyTorch's betas (0.9, 0.999), all parameters of a group in one kernel."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
