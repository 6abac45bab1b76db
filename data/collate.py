"""Rows become a batch."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal

import torch

from data.dataset import IGNORED
from data.pictures import Pictures

Layout = Literal["padded", "packed", "flat"]
PADDING = -1  # source of tokens that stand for nothing


class Collator:
    """Puts the samples of rows together; sends all pictures of a batch through the processor at once.

    No attention mask is made: padding stands behind every real token, where a causal model's tokens never look; of packed rows,
    `visible_until` says who sees whom, in whatever form a model's attention wants it.

    Args:
        tokenizer: Gives the token to pad with (any will do, since nothing looks at it) and the image token's id.
        pictures: How the model shows pictures.
        layout: "padded": one sample a row. "packed": several. "flat": all rows of the batch in one, without padding, with the
            arguments that flash attention wants.
    """

    def __init__(self, tokenizer: Any, pictures: Pictures, layout: Layout = "padded") -> None:
        self.pad_id = tokenizer.pad_token_id or 0
        self.pictures = pictures
        self.layout = layout
        self.image_id = tokenizer.convert_tokens_to_ids(pictures.token) if pictures.types_tokens else None

    def __call__(self, rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: For each row its samples, as `MixedDataset` gives them.

        Returns:
            Tensors [rows, tokens]: `input_ids`, `labels` int64; `sources` int32, number of the source (-1 for padding); `text_only` bool,
            whether the token's sample has no picture (False for padding). Where a weight is not 1: `loss_weights` float32.

            Packed: also `position_ids` int64, from 0 in each sample, along each path of a tree; `visible_until` int32: token q sees
            token k where k <= q < visible_until[k], padding being a sample of its own. Where dialogues part: `predictors` int64, the
            place in its row of the token that predicts each token; those that nothing predicts have their own.

            Flat: also `position_ids`, `cu_seq_lens_q`, `cu_seq_lens_k` int32 [samples + 1], `max_length_q`, `max_length_k`. With pictures:
            `pixel_values` and whatever else the family's processor makes of them.
        """
        samples = list(chain.from_iterable(rows))
        assert self.layout == "packed" or not any("predictors" in sample for sample in samples)
        groups = [samples] if self.layout == "flat" else rows
        width = max(sum(len(sample["input_ids"]) for sample in group) for group in groups)

        def laid(name: str, padding: Any) -> torch.Tensor:
            return torch.stack([_row([sample[name] for sample in group], width, padding) for group in groups])

        batch: dict[str, Any] = {"input_ids": laid("input_ids", self.pad_id), "labels": laid("labels", IGNORED)}
        if any(((sample["weights"] != 0) & (sample["weights"] != 1)).any() for sample in samples):
            batch["loss_weights"] = laid("weights", 0.0)
        batch["sources"] = _spread(groups, width, [[sample["source"] for sample in group] for group in groups], PADDING).int()
        batch["text_only"] = _spread(groups, width, [[not sample["images"] for sample in group] for group in groups], False)
        if self.layout == "packed":
            batch |= _places(groups, width)
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


def _spread(groups: Sequence[Sequence[dict[str, Any]]], width: int, values: Sequence[Sequence[Any]], padding: Any) -> torch.Tensor:
    """A value of each sample at all of its tokens."""
    rows = []
    for group, row in zip(groups, values, strict=True):
        lengths = [len(sample["input_ids"]) for sample in group]
        rows.append(torch.repeat_interleave(torch.tensor([*row, padding]), torch.tensor([*lengths, width - sum(lengths)])))
    return torch.stack(rows)


def _places(groups: Sequence[Sequence[dict[str, Any]]], width: int) -> dict[str, torch.Tensor]:
    """Where each token stands in its sample, who sees it, what predicts it; padding is a sample of its own."""
    names = ("position_ids", "visible_until", "predictors")
    rows = [[torch.cat(parts) for parts in zip(*_places_of_row(group, width), strict=True)] for group in groups]
    batch = {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    if not any("predictors" in sample for group in groups for sample in group):
        del batch["predictors"]
    return batch


def _places_of_row(group: Sequence[dict[str, Any]], width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Positions, ends of what sees each token, predictors of each sample of a row, then of its padding."""
    start = 0
    for sample in group:
        size = len(sample["input_ids"])
        depths = torch.arange(size)
        positions, until = sample.get("positions", depths), sample.get("visible_until", torch.full((size,), size, dtype=torch.int32))
        yield positions, until + start, sample.get("predictors", (depths - 1).clamp(min=0)) + start
        start += size
    rest = torch.arange(width - start)
    yield rest, torch.full((width - start,), width, dtype=torch.int32), rest + start


def _flash_arguments(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples], dtype=torch.int32)
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    return {
        "position_ids": positions[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
