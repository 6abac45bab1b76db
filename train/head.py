"""The loss, computed inside the language model's head so that no logit outlives its chunk."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from model import siamese
from train.losses import Rows

CHUNK = 2**25  # logits that exist at once, 128 MiB in float32; a loss holds a few tensors of that size
UNFIT = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")  # models that change what their head gives

Loss = Callable[[torch.Tensor, slice], torch.Tensor]
"""Logits float32 [rows of a chunk, vocabulary], which rows these are -> a scalar."""


@dataclass(frozen=True)
class Weights:
    """A head's matrix, float [vocabulary, hidden], with its bias."""

    matrix: torch.Tensor
    bias: torch.Tensor | None

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """float32 [rows, vocabulary]."""
        return functional.linear(hidden_ND, self.matrix, self.bias).float()


class LossHead:
    """Stands in for the forward pass of a model's head: takes the rows that are asked for, gives their loss, or their hidden states.

    The model calls it where it would have called its head, so that whatever hangs on the head's call (ZeRO-3 gathers its weights then)
    happens as before.

    Args:
        model: A causal model, LLaVA-style or text-only.
        gate_only: Numbers of the sources whose tokens train a siamese model's gate alone.

    Raises:
        ValueError: The model does more to its logits than its head does.
    """

    def __init__(self, model: Any, gate_only: Sequence[int] = ()) -> None:
        text = model.config.get_text_config()
        found = [name for name in UNFIT if getattr(text, name, None) not in (None, 1.0)]
        if found:
            raise ValueError(
                f"{type(model).__name__} changes its logits behind the head ({', '.join(found)}), which training does not do; "
                "use a LLaMA or Qwen backbone"
            )
        self.module = model.get_output_embeddings()
        self.siamese = siamese.of(model)
        self._gate_only = torch.tensor(tuple(gate_only), dtype=torch.long)
        self._rows: Rows | None = None
        self._loss: Callable[[torch.Tensor, Weights], torch.Tensor] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Takes the place of the head's forward pass for a time."""
        self.module.forward = self._forward
        try:
            yield
        finally:
            del self.module.forward

    @contextmanager
    def asked(self, rows: Rows, loss: Callable[[torch.Tensor, Weights], torch.Tensor] | None = None) -> Iterator[None]:
        """What the next forward pass is for; inside, the model's `logits` are the answer.

        Args:
            rows: Rows of the hidden states, the others being dropped.
            loss: From their hidden states [rows, hidden], with the head's weights, to a scalar; None: the hidden states are the answer.
        """
        self._rows, self._loss = rows, loss
        try:
            with self._mixing_left_to_us(rows):
                yield
        finally:
            self._rows = self._loss = None

    def weights(self) -> Weights:
        """The head's own."""
        return Weights(self.module.weight, getattr(self.module, "bias", None))

    def _forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        assert self._rows is not None, "the head is used outside of a loss"
        hidden_ND = self._picked(hidden_BTD, self._rows)
        return hidden_ND if self._loss is None else self._loss(hidden_ND, self.weights())

    def _mixing_left_to_us(self, rows: Rows) -> AbstractContextManager[None]:
        if self.siamese is None or self.siamese.fork.alone is not None:
            return nullcontext()
        assert rows.prompts is not None, "a siamese model's rows need their prompts"
        return self.siamese.asked(rows.prompts)

    def _picked(self, hidden_BTD: torch.Tensor, rows: Rows) -> torch.Tensor:
        if self.siamese is None or self.siamese.fork.alone is not None:
            return hidden_BTD[rows.batch, rows.position]
        gate_only = torch.isin(rows.sources, self._gate_only.to(rows.sources.device))
        return self.siamese.mixed_rows(hidden_BTD, rows.batch, rows.position, gate_only)


def chunked(hidden_ND: torch.Tensor, weights: Weights, loss: Loss, *, chunk: int = CHUNK) -> torch.Tensor:
    """A loss that is a sum over rows, with logits of a few rows at a time in memory.

    The gradients are taken chunk by chunk in the forward pass, while the chunk's logits are there; so nothing is computed twice, and the
    memory does not grow with the number of rows.

    Args:
        hidden_ND: Hidden states behind the final norm, [rows, hidden].
        weights: The head.
        loss: Called once for each chunk of rows, in order.
        chunk: Logits that exist at once.

    Returns:
        The sum over the chunks, float32 [].
    """
    rows = max(1, chunk // weights.matrix.shape[0])
    result: torch.Tensor = _Chunked.apply(hidden_ND, weights.matrix, weights.bias, loss, rows)
    return result


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, loss: Loss, rows: int) -> torch.Tensor:
        wanted = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        # float32: a sum of many chunks in bfloat16 would lose the small ones
        to_matrix = torch.zeros_like(matrix, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for first in range(0, len(hidden), rows):
            span = slice(first, min(first + rows, len(hidden)))
            logits = Weights(matrix, bias).logits(hidden[span]).requires_grad_(any(wanted))
            with torch.enable_grad():
                value = loss(logits, span)
            total += value.detach()
            if not any(wanted):
                continue
            (to_logits,) = torch.autograd.grad(value, logits)
            low = to_logits.to(matrix.dtype)
            if to_hidden is not None:
                torch.mm(low, matrix, out=to_hidden[span])
            if to_matrix is not None:
                _add_product(to_matrix, low.T, hidden[span])
            if to_bias is not None:
                to_bias += to_logits.sum(dim=0)
        ctx.gradients = [one if one is None else one.to(hidden.dtype) for one in (to_hidden, to_matrix, to_bias)]
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place, so they serve once
        return (*(None if one is None else one.mul_(gradient.to(one.dtype)) for one in gradients), None, None)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds a product of matrices to a float32 one."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
