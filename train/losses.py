"""Losses as (sum, count), so that whoever adds up divides once."""

import torch
from torch.nn import functional

from data.dataset import IGNORED


def predicting_positions(labels_BT: torch.Tensor) -> torch.Tensor:
    """Positions whose next token carries loss in any row, int64 [positions]; logits elsewhere are never needed."""
    return (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(-1)


def cross_entropy(
    logits_BPV: torch.Tensor, labels_BP: torch.Tensor, weights_BP: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | int]:
    """Weighted sum of the negative log-likelihoods of labels that carry loss, with the sum of their weights.

    Args:
        logits_BPV: Float [batch, positions, vocabulary]; position p predicts label p (already shifted).
        labels_BP: int64 [batch, positions]; -100 carries no loss.
        weights_BP: Float [batch, positions], above 0 where a label carries loss; None: 1 everywhere, so that the second is their number.
    """
    keep = labels_BP != IGNORED
    rows = logits_BPV[keep].float()
    if weights_BP is None:
        return functional.cross_entropy(rows, labels_BP[keep], reduction="sum"), rows.shape[0]
    weights = weights_BP[keep].float()
    return (functional.cross_entropy(rows, labels_BP[keep], reduction="none") * weights).sum(), weights.sum()


def loss_weight(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the weights of all labels of a batch that something predicts, float64 []."""
    labels = batch["labels"][:, 1:]
    weights = batch.get("loss_weights")
    return (labels != IGNORED).sum(dtype=torch.float64) if weights is None else weights[:, 1:][labels != IGNORED].sum(dtype=torch.float64)
