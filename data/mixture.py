"""The order in which samples of several sources are seen."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Source:
    """What mixing needs to know of a source."""

    name: str
    size: int
    weight: float = 1.0
    text_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Order:
    """A planned order.

    Attributes:
        positions: int32 array [samples, 2]: source, then record within it.
        epochs: For each source, how often each of its records is seen, on average.
    """

    positions: np.ndarray
    epochs: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Hash of the order; equal hashes mean the same samples in the same order."""
        return hashlib.sha256(self.positions.astype("<i4").tobytes()).hexdigest()


def samples_per_epoch(sources: Sequence[Source], text_share: float | None = None) -> int:
    """Samples in one epoch: each record `weight` times; with a fixed `text_share`, each record with images `weight` times."""
    if text_share is None or text_share == 1:
        return math.ceil(sum(source.size * source.weight for source in sources))
    visual = sum(source.size * source.weight for source in sources if not source.text_only)
    return math.ceil(visual / (1 - text_share))


def mix(sources: Sequence[Source], samples: int, *, seed: int, text_share: float | None = None) -> Order:
    """Plans an order in which every stretch of samples holds the sources in their shares.

    Sources take turns by error diffusion, so every batch (of every rank) has its share of each to within one sample, whatever
    the batch size. Within a source, records follow seeded permutations, one for each pass.

    Args:
        sources: The sources; one that has no records is an error.
        samples: Length of the order: steps x batch size.
        seed: Draws the permutations.
        text_share: Share of samples from sources without images; None: by weight x size, like all else.

    Raises:
        ValueError: `text_share` cannot be met by these sources.
    """
    for source in sources:
        if source.size == 0:
            raise ValueError(f"data source {source.name} has no records left to train on; remove it from data.sources")
    choice = _diffuse(_shares(sources, text_share), samples)
    positions = np.empty((samples, 2), np.int32)
    positions[:, 0] = choice
    epochs = []
    for number, source in enumerate(sources):
        where = np.flatnonzero(choice == number)
        passes = [
            np.random.default_rng([seed, number, one_pass]).permutation(source.size) for one_pass in range(-(-len(where) // source.size))
        ]
        positions[where, 1] = np.concatenate([*passes, np.empty(0, np.int64)])[: len(where)]
        epochs.append(len(where) / source.size)
    return Order(positions=positions, epochs=tuple(epochs))


def _shares(sources: Sequence[Source], text_share: float | None) -> np.ndarray:
    amounts = np.array([source.size * source.weight for source in sources], np.float64)
    if text_share is None:
        return amounts / amounts.sum()
    is_text = np.array([source.text_only for source in sources])
    for wanted, has, kind in ((text_share, is_text.any(), "without images"), (1 - text_share, not is_text.all(), "with images")):
        if wanted > 0 and not has:
            raise ValueError(f"data.text_share is {text_share}, but no source is {kind}; add one to data.sources, or leave text_share out")
    shares = np.zeros(len(sources))
    for group, share in ((is_text, text_share), (~is_text, 1 - text_share)):
        if group.any():
            shares[group] = share * amounts[group] / amounts[group].sum()
    return shares


def _diffuse(shares: np.ndarray, samples: int) -> np.ndarray:
    """Which source each position takes: always the one furthest behind its share."""
    if len(shares) == 1:
        return np.zeros(samples, np.int32)
    behind, choice = [0.0] * len(shares), np.empty(samples, np.int32)
    step = shares.tolist()
    for position in range(samples):
        behind = [debt + share for debt, share in zip(behind, step, strict=True)]
        chosen = max(range(len(behind)), key=behind.__getitem__)
        behind[chosen] -= 1.0
        choice[position] = chosen
    return choice
