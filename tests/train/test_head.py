"""The loss inside the head."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from train.head import LossHead, Weights, chunked
from train.losses import Rows, token_losses

ROWS, HIDDEN, VOCABULARY = 11, 6, 20


def parts(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias).to(dtype)
    return torch.randn(ROWS, HIDDEN).to(dtype).requires_grad_(), head, torch.randint(0, VOCABULARY, (ROWS,))


def gradients(total: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(3 * total, of))


@pytest.mark.parametrize("rows", [1, 4, ROWS, 50])
@pytest.mark.parametrize("bias", [True, False])
def test_in_chunks_the_loss_and_every_gradient_are_those_of_the_whole(rows: int, bias: bool) -> None:
    hidden, head, labels = parts(bias=bias)
    found = chunked(
        hidden,
        Weights(head.weight, head.bias),
        lambda logits, span: token_losses(logits, labels[span]).sum(),
        chunk=rows * VOCABULARY,
    )
    expected = functional.cross_entropy(head(hidden), labels, reduction="sum")
    assert torch.allclose(found, expected)
    wanted = (hidden, *head.parameters())
    for one, other in zip(gradients(found, *wanted), gradients(expected, *wanted), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_no_more_logits_than_a_chunk_exist_at_once() -> None:
    hidden, head, _ = parts()
    sizes: list[int] = []

    def loss(logits: torch.Tensor, span: slice) -> torch.Tensor:
        sizes.append(logits.numel())
        return logits.sum()

    chunked(hidden, Weights(head.weight, head.bias), loss, chunk=3 * VOCABULARY)
    assert sizes == [60, 60, 60, 40]


def test_nothing_of_the_logits_is_kept_for_the_backward_pass() -> None:
    hidden, head, labels = parts()
    total = chunked(hidden, Weights(head.weight.detach(), None), lambda logits, span: token_losses(logits, labels[span]).sum())
    assert [one.shape for one in total.grad_fn.gradients if one is not None] == [(ROWS, HIDDEN)]


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, labels = parts()
    head.requires_grad_(False)
    chunked(hidden, Weights(head.weight, head.bias), lambda logits, span: token_losses(logits, labels[span]).sum()).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_a_head_trains_behind_frozen_states() -> None:
    hidden, head, labels = parts()
    chunked(hidden.detach(), Weights(head.weight, None), lambda logits, span: token_losses(logits, labels[span]).sum()).backward()
    assert head.weight.grad is not None


def test_many_small_gradients_add_up_in_bfloat16() -> None:
    hidden, head, labels = parts(torch.bfloat16, bias=False)
    hidden, labels = hidden.detach().repeat(200, 1), labels.repeat(200)
    chunked(hidden, Weights(head.weight, None), lambda logits, span: token_losses(logits, labels[span]).sum(), chunk=VOCABULARY).backward()
    exact = head.weight.detach().float().requires_grad_()
    functional.cross_entropy(functional.linear(hidden.float(), exact), labels, reduction="sum").backward()
    assert head.weight.grad is not None
    assert exact.grad is not None
    assert torch.allclose(head.weight.grad.float(), exact.grad, rtol=0.02, atol=0.5)


def test_rows_without_a_label_give_nothing() -> None:
    hidden, head, _ = parts()
    total = chunked(hidden[:0], Weights(head.weight, head.bias), lambda logits, span: logits.sum())
    assert gradients(total, head.weight)[0].abs().sum() == total == 0


class Model(nn.Module):
    """A head behind an identity, with a config."""

    def __init__(self, **text: float) -> None:
        super().__init__()
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY)
        self.config = type("Config", (), {"get_text_config": lambda _: type("Text", (), text)()})()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


def test_the_head_is_asked_for_the_rows_alone_then_is_itself_again() -> None:
    model, ids = Model(), torch.zeros(2, dtype=torch.long)
    head, hidden = LossHead(model), torch.randn(2, 3, HIDDEN)
    rows = Rows(batch=torch.tensor([0, 1]), position=torch.tensor([2, 0]), labels=ids, weights=ids, text_only=ids, sources=ids)
    with head.installed(), head.asked(rows):
        assert torch.equal(model.lm_head(hidden), torch.stack([hidden[0, 2], hidden[1, 0]]))
    assert model.lm_head(hidden).shape == (2, 3, VOCABULARY)


def test_a_model_that_changes_its_logits_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"changes its logits behind the head \(final_logit_softcapping\)"):
        LossHead(Model(final_logit_softcapping=30.0))
