"""Runs that are stopped inside a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest


@contextmanager
def broken_at(step: int) -> Iterator[None]:
    """Whatever trains inside is interrupted in the forward pass of a step, which it must come to."""
    from train.trainer import MixtureTrainer

    original = MixtureTrainer.compute_loss

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with patch.object(MixtureTrainer, "compute_loss", failing), pytest.raises(KeyboardInterrupt):
        yield
