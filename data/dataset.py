"""Encoded samples of several sources as one map-style dataset."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.chat import encode_all
from data.config import DataConfig, SourceConfig
from data.conversation import Conversation
from data.images import ImageCache
from data.mixture import Order, Source
from data.pictures import Pictures
from data.readers import read

IGNORED = -100  # label of a token that carries no loss


@dataclass(frozen=True, kw_only=True)
class EncodedSource:
    """All samples of one file, encoded, in flat arrays.

    Attributes:
        config: Where they came from.
        ids: int32 [tokens of all samples].
        mask: bool [tokens of all samples], True where a token carries loss.
        bounds: int64 [samples + 1]: sample i is `ids[bounds[i]:bounds[i + 1]]`.
        images: For each sample, its pictures' paths.
        left_out: Why samples were left out -> the records' places.
        sha256: Hash of the file.
    """

    config: SourceConfig
    ids: np.ndarray
    mask: np.ndarray
    bounds: np.ndarray
    images: tuple[tuple[str, ...], ...]
    left_out: dict[str, list[str]]
    sha256: str

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def source(self) -> Source:
        """What mixing needs to know."""
        text_only = not any(self.images)
        return Source(name=self.config.path, size=len(self), weight=self.config.weight, text_only=text_only)


def load_sources(config: DataConfig, tokenizer: Any, pictures: Pictures) -> list[EncodedSource]:
    """Reads and encodes every source of a recipe's `data` section.

    Args:
        config: The section.
        tokenizer: Its chat template gives ids and loss masks.
        pictures: How the model shows pictures.
    """
    return [load_source(source, tokenizer, pictures, config.max_length) for source in config.sources]


def load_source(config: SourceConfig, tokenizer: Any, pictures: Pictures, max_length: int) -> EncodedSource:
    """Reads and encodes one file; samples that are too long, or without a token to learn, are left out by name."""
    conversations = read(config.path, config.format)
    _check_images(conversations, pictures)
    ids, masks, images = [], [], []
    left_out: dict[str, list[str]] = {}
    encoded = encode_all(conversations, tokenizer, pictures=pictures, loss_on=config.loss_on)
    for conversation, (one, mask) in zip(conversations, encoded, strict=True):
        mask[:1] = False  # nothing predicts the first token
        if len(one) > max_length:
            left_out.setdefault(f"longer than data.max_length = {max_length} tokens", []).append(conversation.where)
        elif not mask.any():
            left_out.setdefault("no turn that carries loss", []).append(conversation.where)
        else:
            ids.append(one)
            masks.append(mask)
            images.append(tuple(map(str, conversation.images)))
    if not ids:
        reasons = "; ".join(f"{len(where)} {reason}" for reason, where in left_out.items()) or "the file is empty"
        raise ValueError(f"{config.path}: no record is left to train on ({reasons})")
    return EncodedSource(
        config=config,
        ids=np.concatenate(ids),
        mask=np.concatenate(masks),
        bounds=np.concatenate([[0], np.cumsum([len(one) for one in ids])]),
        images=tuple(images),
        left_out=left_out,
        sha256=hashlib.sha256(Path(config.path).read_bytes()).hexdigest(),
    )


def _check_images(conversations: Sequence[Conversation], pictures: Pictures) -> None:
    seen: set[Path] = set()
    for conversation in conversations:
        if conversation.images and pictures.none:
            raise ValueError(f"{conversation.where}: has an image, but the model has no vision tower; give text-only data or another model")
        for image in conversation.images:
            if image not in seen and not image.is_file():
                raise FileNotFoundError(f"{conversation.where}: image {image} does not exist; write the file or remove the record")
            seen.add(image)


class MixedDataset(Dataset[dict[str, Any]]):
    """The samples of several sources in a planned order."""

    def __init__(self, sources: Sequence[EncodedSource], order: Order) -> None:
        self.sources = tuple(sources)
        self.order = order
        self.cache = ImageCache()

    def __len__(self) -> int:
        return len(self.order.positions)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One sample: `input_ids` and `labels`, int64 [tokens]; `images`, a list of uint8 arrays [height, width, 3]."""
        number, record = self.order.positions[position]
        source = self.sources[number]
        first, last = source.bounds[record], source.bounds[record + 1]
        ids = torch.from_numpy(source.ids[first:last].astype(np.int64))
        carries_loss = torch.from_numpy(source.mask[first:last])
        return {
            "input_ids": ids,
            "labels": torch.where(carries_loss, ids, IGNORED),
            "images": [self.cache(path) for path in source.images[record]],
        }

    def lengths(self) -> np.ndarray:
        """Tokens of each sample in the order, int64 [samples]."""
        sizes = [np.diff(source.bounds) for source in self.sources]
        return np.array([sizes[number][record] for number, record in self.order.positions.tolist()], np.int64)
