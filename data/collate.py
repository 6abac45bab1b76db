"""Samples become a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import IGNORED
from data.pictures import Pictures


class Collator:
    """Pads ids and labels on the right; sends all pictures of a batch through the processor at once.

    No attention mask is made: padding stands behind every real token, and a causal model's tokens never look behind them.

    Args:
        tokenizer: Gives the token to pad with (any will do, since nothing looks at it) and the image token's id.
        pictures: How the model shows pictures.
    """

    def __init__(self, tokenizer: Any, pictures: Pictures) -> None:
        self.pad_id = tokenizer.pad_token_id or 0
        self.pictures = pictures
        self.image_id = tokenizer.convert_tokens_to_ids(pictures.token) if pictures.types_tokens else None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch of `input_ids` and `labels`, int64 [samples, tokens]; where a sample has pictures, with `pixel_values` and
        whatever else the family's processor makes of them."""
        ids = pad_sequence([sample["input_ids"] for sample in samples], batch_first=True, padding_value=self.pad_id)
        batch = {
            "input_ids": ids,
            "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORED),
        }
        if self.image_id is not None:
            batch["mm_token_type_ids"] = (ids == self.image_id).int()
        return batch | self.pictures.inputs([sample["images"] for sample in samples])
