"""Samples become a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import IGNORED


class Collator:
    """Pads ids and labels on the right; sends all pictures of a batch through the processor at once.

    No attention mask is made: padding stands behind every real token, and a causal model's tokens never look behind them.

    Args:
        pad_id: Token to pad with; any will do, since nothing looks at it.
        image_processor: Turns RGB arrays into `pixel_values`; None for a model without a vision tower.
    """

    def __init__(self, pad_id: int, image_processor: Any | None) -> None:
        self.pad_id = pad_id
        self.image_processor = image_processor

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch of `input_ids` and `labels`, int64 [samples, tokens], with `pixel_values`, float32
        [pictures, 3, height, width], where a sample has pictures."""
        batch = {
            "input_ids": pad_sequence([sample["input_ids"] for sample in samples], batch_first=True, padding_value=self.pad_id),
            "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORED),
        }
        images = [image for sample in samples for image in sample["images"]]
        if images:
            assert self.image_processor is not None
            batch["pixel_values"] = self.image_processor(images=images, return_tensors="pt")["pixel_values"]
        return batch
