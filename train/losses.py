"""Losses as (sum, count), so that whoever adds up divides once."""

import torch
from torch.nn import functional

from data.dataset import IGNORED


def predicting_positions(labels_BT: torch.Tensor) -> torch.Tensor:
    """Positions whose next token carries loss in any row, int64 [positions]; logits elsewhere are never needed."""
    return (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(-1)


def cross_entropy(logits_BPV: torch.Tensor, labels_BP: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the negative log-likelihoods of labels that carry loss, with their number.

    Args:
        logits_BPV: Float [batch, positions, vocabulary]; position p predicts label p (already shifted).
        labels_BP: int64 [batch, positions]; -100 carries no loss.
    """
    keep = labels_BP != IGNORED
    rows = logits_BPV[keep].float()
    return functional.cross_entropy(rows, labels_BP[keep], reduction="sum"), rows.shape[0]
