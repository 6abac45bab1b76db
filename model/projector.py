"""A fresh projector, drawn from a seeded generator."""

import torch
from torch import nn


@torch.no_grad()
def initialise(projector: nn.Module, seed: int) -> None:
    """Fills weights from a normal distribution of width 1/sqrt(inputs), biases with zero; norms start as the identity.

    The numbers depend on `seed` and the projector's shape only, never on the global random state.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in projector.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
