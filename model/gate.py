"""The siamese gate: how much of the next token comes from the base, how much from its tuned twin."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.config import GateConfig

INPUTS = {"query_aware": 4, "scalar": 4, "no_query": 2, "fixed": 0}
"""How many hidden states a gate reads."""


@dataclass(frozen=True)
class Pair:
    """Hidden states behind the final norm, of the base with those of its tuned twin.

    Attributes:
        base: [rows, hidden].
        tuned: [rows, hidden].
    """

    base: torch.Tensor
    tuned: torch.Tensor

    def __getitem__(self, rows: Any) -> "Pair":
        return Pair(self.base[rows], self.tuned[rows])


class Gate(nn.Module):
    """The base's share of the next token's hidden state (IMSM, arXiv 2412.17383).

    gate = sigmoid([query_base ; base ; tuned ; query_tuned] W_A W_B), with W_A [4 x hidden, rank], W_B [rank, hidden], no bias. A query is
    the mean hidden state of the prompt's tokens. `no_query` reads [base ; tuned] alone; `scalar` has W_B [rank, 1], which comes to mixing
    logits; `fixed` is a number. All of it is computed in float32.

    How the paper's begins is not known to us. Here W_A is drawn as torch draws a linear layer's weights, W_B is zero: every share begins
    at one half, or at sigmoid(initial_bias).

    Args:
        config: Which gate.
        hidden: Size of a hidden state.
        seed: Draws W_A; the global random state is left alone.
    """

    def __init__(self, config: GateConfig, hidden: int, seed: int) -> None:
        super().__init__()
        self.config = config
        if config.kind == "fixed":
            return
        width = 1 if config.kind == "scalar" else hidden
        self.w_a = nn.Parameter(torch.empty(INPUTS[config.kind] * hidden, config.rank))
        self.w_b = nn.Parameter(torch.zeros(config.rank, width))
        bound = 1 / math.sqrt(len(self.w_a))
        if self.w_a.device.type != "meta":
            nn.init.uniform_(self.w_a, -bound, bound, generator=torch.Generator(self.w_a.device).manual_seed(seed))
        if config.initial_bias is not None:
            self.bias = nn.Parameter(torch.full((width,), config.initial_bias))

    def forward(self, states: Pair, queries: Pair, of: torch.Tensor) -> torch.Tensor:
        """The shares.

        Args:
            states: Of the tokens that predict, [rows, hidden] each.
            queries: Of their prompts, [prompts, hidden] each.
            of: int64 [rows]: the prompt of each row.

        Returns:
            float32 [rows, hidden]; [rows, 1] for `scalar` and `fixed`. 1 is the base alone, 0 the tuned model alone.
        """
        if self.config.kind == "fixed":
            return torch.full((len(of), 1), self.config.base_share, device=of.device)
        reads = self.w_a.float().chunk(INPUTS[self.config.kind])
        if self.config.kind == "no_query":
            seen = states.base.float() @ reads[0] + states.tuned.float() @ reads[1]
        else:
            asked = queries.base.float() @ reads[0] + queries.tuned.float() @ reads[3]
            seen = states.base.float() @ reads[1] + states.tuned.float() @ reads[2] + asked[of]
        scores = seen @ self.w_b.float()
        return torch.sigmoid(scores + self.bias.float() if hasattr(self, "bias") else scores)


def mixed(share: torch.Tensor, states: Pair) -> torch.Tensor:
    """Share x base + (1 - share) x tuned, in the states' dtype; share 1 gives the base, share 0 the tuned model, to the bit.

    Args:
        share: float32 [rows, hidden] or [rows, 1].
        states: [rows, hidden] each.
    """
    return (share * states.base.float() + (1 - share) * states.tuned.float()).to(states.base.dtype)
