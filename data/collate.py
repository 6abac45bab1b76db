"""Rows become a batch."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import torch

from data.dataset import IGNORED
from data.pictures import Pictures

Layout = Literal["padded", "packed", "flat"]
PADDING = -1  # segment of tokens that stand for nothing


class Collator:
    """Puts the samples of rows together; sends all pictures of a batch through the processor at once.

    No attention mask is made: padding stands behind every real token, where a causal model's tokens never look, and packed samples are told
    apart by their positions, which start anew with each of them (transformers makes its masks from that).

    Args:
        tokenizer: Gives the token to pad with (any will do, since nothing looks at it) and the image token's id.
        pictures: How the model shows pictures.
        layout: "padded": one sample a row. "packed": several. "flat": all rows of the batch in one, without padding, with the
            arguments that flash attention wants.

    Raises:
        ValueError: Rows are to be packed for a model whose positions are not plain numbers (Qwen-VL).
    """

    def __init__(self, tokenizer: Any, pictures: Pictures, layout: Layout = "padded") -> None:
        if layout != "padded" and pictures.types_tokens:
            raise ValueError(
                "data.packing: Qwen-VL models place pictures in three dimensions, which packed rows do not do yet; leave packing out"
            )
        self.pad_id = tokenizer.pad_token_id or 0
        self.pictures = pictures
        self.layout = layout
        self.image_id = tokenizer.convert_tokens_to_ids(pictures.token) if pictures.types_tokens else None

    def __call__(self, rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: For each row its samples, as `MixedDataset` gives them.

        Returns:
            `input_ids`, `labels`: int64 [rows, tokens]. Where a weight is not 1: `loss_weights`, float32 [rows, tokens]. Packed: also
            `position_ids` int64, `segment_ids` int32 (number of the sample in its row, -1 for padding), both [rows, tokens]. Flat: also
            `cu_seq_lens_q`, `cu_seq_lens_k` int32 [samples + 1], `max_length_q`, `max_length_k`. With pictures: `pixel_values`
            and whatever else the family's processor makes of them.
        """
        samples = list(chain.from_iterable(rows))
        groups = [samples] if self.layout == "flat" else rows
        width = max(sum(len(sample["input_ids"]) for sample in group) for group in groups)

        def laid(name: str, padding: Any) -> torch.Tensor:
            return torch.stack([_row([sample[name] for sample in group], width, padding) for group in groups])

        batch: dict[str, Any] = {"input_ids": laid("input_ids", self.pad_id), "labels": laid("labels", IGNORED)}
        if any(((sample["weights"] != 0) & (sample["weights"] != 1)).any() for sample in samples):
            batch["loss_weights"] = laid("weights", 0.0)
        if self.layout != "padded":
            batch |= _positions(groups, width)
        if self.layout == "flat":
            batch |= _flash_arguments(samples)
        if self.image_id is not None:
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_id).int()
        return batch | self.pictures.inputs([sample["images"] for sample in samples])


def _row(parts: Sequence[torch.Tensor], width: int, padding: Any) -> torch.Tensor:
    row = parts[0].new_full((width,), padding)
    filled = torch.cat(list(parts))
    row[: len(filled)] = filled
    return row


def _positions(groups: Sequence[Sequence[dict[str, Any]]], width: int) -> dict[str, torch.Tensor]:
    """Positions within each sample, numbers of the samples; padding is a segment of its own."""
    positions, segments = [], []
    for group in groups:
        lengths = [len(sample["input_ids"]) for sample in group]
        rest = width - sum(lengths)
        positions.append(torch.cat([torch.arange(length) for length in [*lengths, rest]]))
        numbers = torch.arange(len(lengths) + 1, dtype=torch.int32)
        numbers[-1] = PADDING
        segments.append(torch.repeat_interleave(numbers, torch.tensor([*lengths, rest])))
    return {"position_ids": torch.stack(positions), "segment_ids": torch.stack(segments)}


def _flash_arguments(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples], dtype=torch.int32)
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
