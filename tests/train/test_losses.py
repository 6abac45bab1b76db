"""The loss as a sum with its count."""

import torch
from torch.nn import functional

from train.losses import cross_entropy, predicting_positions


def test_the_sum_over_the_count_is_the_models_own_mean_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 11, generator=generator)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, :4] = labels[2, 5:] = -100
    positions = predicting_positions(labels)
    total, count = cross_entropy(logits[:, positions], labels[:, positions + 1])
    expected = functional.cross_entropy(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))
    assert count == int((labels[:, 1:] != -100).sum())
    assert torch.allclose(total / count, expected)


def test_positions_that_no_row_learns_from_are_left_out() -> None:
    labels = torch.tensor([[-100, -100, 5, -100, -100], [-100, -100, -100, 7, -100]])
    assert predicting_positions(labels).tolist() == [1, 2]
