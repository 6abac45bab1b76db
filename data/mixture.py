"""The order in which samples of several sources are seen."""

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ShareBy = Literal["samples", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What mixing needs to know of a source.

    Attributes:
        name: As messages name it.
        size: Samples.
        weight: How often each sample is seen, relative to other sources'.
        share: Fixed share of the mixture in place of the weight.
        max_epochs: See no sample more often than this, on average; None: no limit.
        mean_dialogues: Dialogues of a sample: what shares by samples count, so that joining dialogues of a tree does not change them.
        mean_tokens: Tokens of a sample.
        text_only: Whether no sample has a picture.
    """

    name: str
    size: int
    weight: float = 1.0
    share: float | None = None
    max_epochs: float | None = None
    mean_dialogues: float = 1.0
    mean_tokens: float = 1.0
    text_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Order:
    """A planned order.

    Attributes:
        positions: int32 array [samples, 2]: source, then sample within it.
        epochs: For each source, how often each of its samples is seen, on average.
    """

    positions: np.ndarray
    epochs: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Hash of the order; equal hashes mean the same samples in the same order."""
        return hashlib.sha256(self.positions.astype("<i4").tobytes()).hexdigest()


def samples_per_epoch(sources: Sequence[Source], text_share: float | None = None, share_by: ShareBy = "samples") -> int:
    """Samples of one epoch: so many that each sample of the sources without a fixed share is seen `weight` times, on average.

    With a `text_share`, those are the sources with images; where every share is fixed, all sources.
    """
    check_sizes(sources)
    shares = _shares(sources, text_share, share_by)
    free = [not source.text_only if text_share is not None else source.share is None for source in sources]
    counted = [free_one and share > 0 for free_one, share in zip(free, shares, strict=True)]
    if not any(counted):
        counted = [share > 0 for share in shares]
    samples = sum(source.size * source.weight for source, counts in zip(sources, counted, strict=True) if counts)
    return math.ceil(round(samples / sum(share for share, counts in zip(shares, counted, strict=True) if counts), 6))


def mix(sources: Sequence[Source], samples: int, *, seed: int, text_share: float | None = None, share_by: ShareBy = "samples") -> Order:
    """Plans an order in which every stretch of samples holds the sources in their shares.

    Sources take turns by error diffusion, so every batch (of every rank) has its share of each to within one sample, whatever
    the batch size. Within a source, samples follow seeded permutations, one for each pass. Without `max_epochs`, a longer order begins
    like a shorter one.

    Args:
        sources: The sources; one that has no samples is an error.
        samples: Length of the order.
        seed: Draws the permutations.
        text_share: Share of sources without images; None: by weight x size, like all else.
        share_by: What shares count.

    Raises:
        ValueError: Shares, or `samples`, cannot be met by these sources.
    """
    check_sizes(sources)
    choice = _diffuse(_capped(sources, _shares(sources, text_share, share_by), samples), samples)
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


def most_samples(sources: Sequence[Source]) -> int:
    """How many samples `max_epochs` allows in all; sources with a limit that may not be drawn from count as well."""
    limit = _limits(sources).sum()
    return sys.maxsize if math.isinf(limit) else math.floor(limit)


def check_sizes(sources: Sequence[Source]) -> None:
    """Fails where a source is empty."""
    for source in sources:
        if source.size == 0:
            raise ValueError(f"data source {source.name} has no records left to train on; remove it from data.sources")


def _shares(sources: Sequence[Source], text_share: float | None, share_by: ShareBy) -> np.ndarray:
    """Each source's part of the samples."""
    per_sample = np.array([source.mean_tokens if share_by == "tokens" else source.mean_dialogues for source in sources])
    amounts = np.array([source.size * source.weight for source in sources], np.float64) * per_sample
    fixed = np.array([source.share or 0.0 for source in sources])
    shares = _by_text(sources, amounts, text_share, bool(fixed.any())) if text_share is not None else _by_source(amounts, fixed)
    samples = shares / per_sample
    return np.asarray(samples / samples.sum())


def _by_source(amounts: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Fixed shares as they are; the other sources have the rest."""
    total, free = fixed.sum(), fixed == 0
    if total > 1 + 1e-9:
        raise ValueError(f"the shares of data.sources add up to {total:g}; make them 1 at most")
    if not free.any():
        if abs(total - 1) > 1e-6:
            raise ValueError(f"every source has a share, but they add up to {total:g}; make it 1, or leave one source without")
        return fixed
    if total > 1 - 1e-9:
        raise ValueError(
            "the shares of data.sources add up to 1, so that nothing is left for the sources without; lower them, or give all a share"
        )
    return np.where(free, (1 - total) * amounts / amounts[free].sum(), fixed)


def _by_text(sources: Sequence[Source], amounts: np.ndarray, text_share: float, has_fixed: bool) -> np.ndarray:
    if has_fixed:
        raise ValueError("data.text_share and the shares of data.sources exclude each other; give one of them")
    is_text = np.array([source.text_only for source in sources])
    for wanted, has, kind in ((text_share, is_text.any(), "without images"), (1 - text_share, not is_text.all(), "with images")):
        if wanted > 0 and not has:
            raise ValueError(f"data.text_share is {text_share}, but no source is {kind}; add one to data.sources, or leave text_share out")
    shares = np.zeros(len(sources))
    for group, share in ((is_text, text_share), (~is_text, 1 - text_share)):
        if group.any():
            shares[group] = share * amounts[group] / amounts[group].sum()
    return shares


def _capped(sources: Sequence[Source], shares: np.ndarray, samples: int) -> np.ndarray:
    """Shares such that no source goes beyond its `max_epochs`; what it may not give, the others do."""
    limits = _limits(sources)
    if limits[shares > 0].sum() < samples:
        most = math.floor(limits[shares > 0].sum())
        raise ValueError(
            f"{samples} samples are asked for, but max_epochs of data.sources allows {most}; "
            "lower train.steps, train.epochs or train.batch_size, or raise max_epochs"
        )
    wanted = shares * samples
    while (over := wanted > limits + 1e-9).any():
        missing = (wanted - limits)[over].sum()
        wanted[over] = limits[over]
        room = (wanted < limits - 1e-9) & (shares > 0)
        wanted[room] += missing * shares[room] / shares[room].sum()
    return np.asarray(wanted / max(samples, 1))


def _limits(sources: Sequence[Source]) -> np.ndarray:
    return np.array([math.inf if source.max_epochs is None else source.size * source.max_epochs for source in sources])


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
