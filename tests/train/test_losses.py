"""Losses as sums with their counts."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from train.config import LossConfig
from train.losses import Rows, counts, cross_entropy, divergence, eaft, labelled_rows, scope, token_losses


def batch(labels: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
    empty = torch.zeros_like(labels)
    return {"labels": labels, "text_only": empty.bool(), "sources": empty.int()} | others


def rows(**changes: torch.Tensor) -> Rows:
    plain = batch(torch.tensor([[-100, 3, 4], [-100, 5, -100]]))
    return labelled_rows(plain | changes)


def logits(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, requires_grad=True)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_sum_over_the_count_is_the_models_own_mean_loss(generator: torch.Generator) -> None:
    given = torch.randn(3, 7, 11, generator=generator)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, :4] = labels[2, 5:] = -100
    found = labelled_rows(batch(labels))
    total, count = cross_entropy(token_losses(given[found.batch, found.position], found.labels), found.weights)
    assert count == (labels[:, 1:] != -100).sum()
    assert torch.allclose(total / count, functional.cross_entropy(given[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1)))


def test_a_token_is_predicted_by_the_one_before_it() -> None:
    assert (rows().batch.tolist(), rows().position.tolist(), rows().labels.tolist()) == ([0, 0, 1], [0, 1, 0], [3, 4, 5])


def test_nothing_predicts_a_rows_first_token() -> None:
    assert rows(labels=torch.tensor([[7, 3, 4]]), text_only=torch.zeros(1, 3).bool(), sources=torch.zeros(1, 3)).labels.tolist() == [3, 4]


def test_in_a_tree_a_token_is_predicted_by_its_parent() -> None:
    found = rows(predictors=torch.tensor([[0, 0, 0], [0, 0, 1]]))
    assert found.position.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("on", "expected"), [("all", [1, 1, 1]), ("text", [0, 0, 1]), ("images", [1, 1, 0])])
def test_a_term_counts_only_its_samples(on: Any, expected: list[int]) -> None:
    of = rows(text_only=torch.tensor([[False] * 3, [True] * 3]))
    assert scope(LossConfig(kind="cross_entropy", on=on), of).tolist() == expected


def test_kl_to_base_counts_text_where_nothing_else_is_said() -> None:
    of = rows(text_only=torch.tensor([[False] * 3, [True] * 3]), loss_weights=torch.full((2, 3), 0.5))
    terms = [LossConfig(kind="cross_entropy"), LossConfig(kind="kl_to_base"), LossConfig(kind="lwf")]
    assert counts(terms, of).tolist() == [1.5, 0.5, 1.5]


def test_weights_weigh_in_sum_and_count(generator: torch.Generator) -> None:
    losses = torch.rand(3, generator=generator)
    total, count = cross_entropy(losses, torch.tensor([0.0, 0.5, 2.0]))
    assert torch.allclose(total, 0.5 * losses[1] + 2 * losses[2])
    assert count == 2.5


def test_eaft_leaves_out_what_the_model_is_sure_of() -> None:
    given = torch.zeros(2, 8)
    given[0, 3] = 60.0
    losses = token_losses(given, torch.tensor([5, 5]))
    total, count = eaft(losses, given, torch.ones(2), top=4)
    assert total.item() == pytest.approx(math.log(8), rel=1e-5)  # the second token alone, at full weight
    assert count == 2


def test_eaft_counts_the_entropy_of_the_most_probable_tokens() -> None:
    given = torch.log(torch.tensor([[0.6, 0.2, 0.15, 0.05]]))
    total, _ = eaft(torch.ones(1), given, torch.ones(1), top=2)
    assert total.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2), rel=1e-5)


def test_no_gradient_flows_through_eafts_weights(generator: torch.Generator) -> None:
    given = logits(generator, 3, 8)
    total, _ = eaft(torch.ones(3, requires_grad=True), given, torch.ones(3), top=4)
    assert torch.autograd.grad(total, given, allow_unused=True)[0] is None


def test_the_divergence_from_oneself_is_zero(generator: torch.Generator) -> None:
    given = logits(generator, 3, 8)
    total, _ = divergence(given, given.detach(), torch.ones(3), 2.0)
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(total, given)[0].abs().max() < 1e-6


def test_the_divergence_is_that_of_the_model_from_the_teacher_at_a_temperature(generator: torch.Generator) -> None:
    given, teacher = logits(generator, 1, 8), torch.randn(1, 8, generator=generator)
    q, p = (functional.softmax(one / 3, dim=1) for one in (given, teacher))
    total, _ = divergence(given, teacher, torch.ones(1), 3.0)
    assert total.item() == pytest.approx(9 * (p * (p / q).log()).sum().item(), rel=1e-5)


def test_a_setting_without_an_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature has no effect on cross_entropy"):
        LossConfig(kind="cross_entropy", temperature=2.0)
