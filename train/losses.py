"""Losses as (sum, count), so that whoever adds up divides once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from data.dataset import IGNORED
from model.siamese import Prompts
from train.config import LossConfig
from train.prompts import prompts_of

EAFT_TOP = 20  # arXiv 2601.02151
TEMPERATURES = {"lwf": 2.0, "kl_to_base": 1.0}
SCOPES = {"kl_to_base": "text"}  # where nothing else is said, `on` of every other kind is "all"

Sum = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The tokens of a batch that carry loss, one row each.

    Attributes:
        batch: int64 [rows]: row of the batch.
        position: int64 [rows]: position there whose hidden state predicts the token.
        labels: int64 [rows]: the token.
        weights: float32 [rows], above 0: its weight in the loss.
        text_only: bool [rows]: whether its sample has no picture.
        sources: int64 [rows]: number of the source that it is from.
        prompts: What each is part of an answer to; None where nobody asks.
    """

    batch: torch.Tensor
    position: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    text_only: torch.Tensor
    sources: torch.Tensor
    prompts: Prompts | None = None

    def part(self, span: slice) -> "Rows":
        """Some of the rows, without their prompts."""
        return Rows(**{name: value[span] for name, value in vars(self).items() if name != "prompts"})

    def __len__(self) -> int:
        return len(self.labels)


def labelled_rows(batch: Mapping[str, torch.Tensor], *, with_prompts: bool = False) -> Rows:
    """The rows of a batch, as `data.collate.Collator` makes it, that carry loss.

    A token is predicted by the one before it, unless `predictors` says otherwise: in a row that holds a tree, several tokens may have one
    predictor.
    """
    labels_BT = batch["labels"]
    carries_BT = labels_BT != IGNORED
    predictors_BT = batch.get("predictors")
    if predictors_BT is None:
        carries_BT = carries_BT.clone()
        carries_BT[:, 0] = False  # nothing predicts the first token
    row, token = carries_BT.nonzero(as_tuple=True)
    weights_BT = batch.get("loss_weights")
    return Rows(
        batch=row,
        position=token - 1 if predictors_BT is None else predictors_BT[row, token],
        labels=labels_BT[row, token],
        weights=torch.ones_like(row, dtype=torch.float32) if weights_BT is None else weights_BT[row, token].float(),
        text_only=batch["text_only"][row, token],
        sources=batch["sources"][row, token].long(),
        prompts=prompts_of(batch, row, token) if with_prompts else None,
    )


def scope(config: LossConfig, rows: Rows) -> torch.Tensor:
    """Each row's weight in a term, float32 [rows]; 0 outside the samples that the term counts."""
    where = config.on or SCOPES.get(config.kind, "all")
    if where == "all":
        return rows.weights
    return rows.weights * (rows.text_only if where == "text" else ~rows.text_only)


def counts(terms: Sequence[LossConfig], rows: Rows) -> torch.Tensor:
    """What the sum of each term is divided by, before it is summed over micro batches and processes, float64 [terms]."""
    return torch.stack([scope(term, rows).sum(dtype=torch.float64) for term in terms])


def cross_entropy(losses_N: torch.Tensor, weights_N: torch.Tensor) -> Sum:
    """Weighted sum of negative log-likelihoods, with the sum of the weights.

    Args:
        losses_N: Negative log-likelihood of each label in nats, from `token_losses`.
        weights_N: float32; 0 leaves a row out.
    """
    return (losses_N * weights_N).sum(), weights_N.sum()


def eaft(losses_N: torch.Tensor, logits_NV: torch.Tensor, weights_N: torch.Tensor, top: int) -> Sum:
    """Cross-entropy with each token weighted by how undecided the model is (EAFT, arXiv 2601.02151): what it is sure of moves it little.

    The entropy is that of the `top` most probable tokens among themselves, divided by its largest value, ln(top); no gradient flows
    through it. The count is that of plain cross-entropy, so that sure tokens make the mean smaller, not the others heavier.
    """
    best = logits_NV.detach().topk(min(top, logits_NV.shape[1]), dim=1).values
    logs = functional.log_softmax(best, dim=1)
    undecided_N = -(logs.exp() * logs).sum(dim=1) / math.log(best.shape[1])
    return (losses_N * undecided_N * weights_N).sum(), weights_N.sum()


def divergence(logits_NV: torch.Tensor, teacher_NV: torch.Tensor, weights_N: torch.Tensor, temperature: float) -> Sum:
    """Kullback-Leibler divergence of the model from its teacher, KL(teacher || model) in nats, both at a temperature.

    Times the temperature squared, so that its gradient does not fade with the temperature (arXiv 1503.02531, section 2).
    """
    model = functional.log_softmax(logits_NV / temperature, dim=1)
    teacher = functional.log_softmax(teacher_NV / temperature, dim=1)
    each_N = functional.kl_div(model, teacher, reduction="none", log_target=True).sum(dim=1)
    return (each_N * weights_N).sum() * temperature**2, weights_N.sum()


def token_losses(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each label in nats, float32 [rows]."""
    return functional.cross_entropy(logits_NV, labels_N, reduction="none")


def term_sum(
    config: LossConfig, rows: Rows, logits_NV: torch.Tensor, losses_N: torch.Tensor, teacher_NV: torch.Tensor | None
) -> torch.Tensor:
    """The sum of one term over some rows, a scalar.

    Args:
        config: The term.
        rows: The rows.
        logits_NV: float32 [rows, vocabulary].
        losses_N: Their negative log-likelihoods, from `token_losses`.
        teacher_NV: The teacher's logits, float32 [rows, vocabulary], for a term that needs them.
    """
    weights_N = scope(config, rows)
    if config.kind == "cross_entropy":
        return cross_entropy(losses_N, weights_N)[0]
    if config.kind == "eaft":
        return eaft(losses_N, logits_NV, weights_N, config.top or EAFT_TOP)[0]
    assert teacher_NV is not None
    return divergence(logits_NV, teacher_NV, weights_N, config.temperature or TEMPERATURES[config.kind])[0]
