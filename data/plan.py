"""Which samples stand together in which row of which batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.config import DataConfig
from data.mixture import Order, Source, mix, most_samples, samples_per_epoch
from data.packing import pack

WINDOW = 32  # batches that `group_by_length` sorts together
PROBE = 1024  # samples that tell how long one is
MORE = 1.02  # how much more than the estimate to plan at once when rows are packed


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much to plan: so many steps, or so many epochs.

    Attributes:
        batch_size: Rows of a step, over all processes.
        steps: Optimizer steps; None: as many as `epochs` needs.
        epochs: Passes over the data; without effect when `steps` is given.
    """

    batch_size: int
    steps: int | None = None
    epochs: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All rows of a run, in order.

    Attributes:
        order: The samples in mixed order.
        bounds: int64 [rows + 1]: row i holds `members[bounds[i]:bounds[i + 1]]`.
        members: int64 [samples in rows]: positions in the order.
        batch_size: Rows of a step.
    """

    order: Order
    bounds: np.ndarray
    members: np.ndarray
    batch_size: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.bounds) - 1

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.rows // self.batch_size

    def row(self, number: int) -> np.ndarray:
        """int32 [samples, 2]: source, sample of each member of a row."""
        return self.order.positions[self.members[self.bounds[number] : self.bounds[number + 1]]]

    def per_row(self, per_sample: np.ndarray) -> np.ndarray:
        """Sums a number of each sample of the order over the rows."""
        return np.add.reduceat(per_sample[self.members], self.bounds[:-1]) if self.rows else per_sample[:0]

    def epochs(self, sizes: Sequence[int]) -> tuple[float, ...]:
        """How often each sample of a source is seen, on average.

        Args:
            sizes: Samples of each source.
        """
        seen = np.bincount(self.order.positions[self.members, 0], minlength=len(sizes))
        return tuple(float(count / size) for count, size in zip(seen, sizes, strict=True))

    def sha256(self, rows: int | None = None) -> str:
        """Hash of what the first `rows` rows hold (all when None), in whatever way they are dealt out to processes."""
        count = self.rows if rows is None else rows
        digest = hashlib.sha256(np.diff(self.bounds[: count + 1]).astype("<i4").tobytes())
        digest.update(self.order.positions[self.members[: self.bounds[count]]].astype("<i4").tobytes())
        return digest.hexdigest()


def make_plan(sources: Sequence[Source], lengths: Sequence[np.ndarray], config: DataConfig, amount: Amount, seed: int) -> Plan:
    """Plans every row of a run.

    Args:
        sources: The sources.
        lengths: For each source the tokens of its samples.
        config: How rows are made.
        amount: How many rows.
        seed: Draws the order, what is packed together.

    Raises:
        ValueError: The sources cannot fill that many rows as `config` wants it.
    """
    epoch = samples_per_epoch(sources, config.text_share, config.share_by)
    most = most_samples(sources)
    wanted = max(1, min(round(amount.epochs * epoch), most))

    def ordered(samples: int) -> Order:
        return mix(sources, samples, seed=seed, text_share=config.text_share, share_by=config.share_by)

    if config.packing is not None:
        return _packed(ordered, lengths, config.packing.length, _Wanted(amount, wanted, most, seed))
    steps = amount.steps or max(1, min(round(wanted / amount.batch_size), most // amount.batch_size))
    order = ordered(steps * amount.batch_size)
    members = np.arange(len(order.positions))
    if config.group_by_length:
        members = _by_length(tokens_of(order, lengths), amount.batch_size, seed)
    return Plan(order=order, bounds=np.arange(len(members) + 1), members=members, batch_size=amount.batch_size)


def tokens_of(order: Order, lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of each sample of an order, int64 [samples]."""
    found = np.empty(len(order.positions), np.int64)
    for number, one in enumerate(lengths):
        here = order.positions[:, 0] == number
        found[here] = one[order.positions[here, 1]]
    return found


def dealt(plan: Plan, images: np.ndarray, tokens: np.ndarray, *, groups: int) -> Plan:
    """Deals the rows of each step out to its forward passes, so that all have about as many pictures, then tokens.

    A step holds the same rows as before, so neither its gradient nor the plan's hash depends on the number of processes.

    Args:
        plan: The plan.
        images: Pictures of each sample of the order.
        tokens: Tokens of each sample of the order.
        groups: Forward passes of a step: processes x accumulation. Row r of a step belongs to pass r // (batch_size / groups).
    """
    if groups <= 1 or plan.rows == 0:
        return plan
    shape = (plan.steps, plan.batch_size)
    work = plan.per_row(tokens).astype(np.float64).reshape(shape)
    work += plan.per_row(images).reshape(shape) * work.mean()  # a picture weighs as much as a row of text besides its own tokens
    rows = (_dealt_rows(work, groups) + np.arange(plan.steps)[:, None] * plan.batch_size).reshape(-1)
    sizes = np.diff(plan.bounds)[rows]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    starts = np.repeat(plan.bounds[rows] - bounds[:-1], sizes)
    return replace(plan, bounds=bounds, members=plan.members[starts + np.arange(bounds[-1])])


def _dealt_rows(work: np.ndarray, groups: int) -> np.ndarray:
    """For each step its rows, pass after pass: in turns, the heaviest row left goes to the pass with the least work so far."""
    steps, size = work.shape
    heavy = np.argsort(-work, axis=1, kind="stable").reshape(steps, size // groups, groups)
    load, rows = np.zeros((steps, groups)), np.empty_like(heavy)
    for turn in range(size // groups):
        to = np.argsort(load, axis=1, kind="stable")
        np.put_along_axis(rows[:, turn], to, heavy[:, turn], axis=1)
        load += np.take_along_axis(work, rows[:, turn], axis=1)
    return rows.transpose(0, 2, 1).reshape(steps, size)


@dataclass(frozen=True)
class _Wanted:
    """How much is to be packed: an amount, the samples of its epochs, the most samples that may be drawn, the seed."""

    amount: Amount
    samples: int
    most: int
    seed: int


def _packed(ordered: Callable[[int], Order], lengths: Sequence[np.ndarray], capacity: int, wanted: _Wanted) -> Plan:
    """Packs as many samples as fill the steps; the last step's rows are filled from what follows in the order."""
    amount, most = wanted.amount, wanted.most
    rows = None if amount.steps is None else amount.steps * amount.batch_size
    samples = wanted.samples
    if rows is not None:
        mean = float(np.mean(tokens_of(ordered(min(PROBE, most)), lengths)))
        samples = min(round(rows * capacity / mean * MORE) + 1, most)
    while True:
        order = ordered(samples)
        packing = pack(tokens_of(order, lengths), capacity, seed=wanted.seed)
        found = len(packing.rows) - 1
        rows = rows or max(1, round(found / amount.batch_size)) * amount.batch_size
        if found < rows and samples == most and amount.steps is None:
            rows = max(1, found // amount.batch_size) * amount.batch_size
        if found >= rows:
            bounds = packing.rows[: rows + 1]
            return Plan(order=order, bounds=bounds, members=packing.samples[: bounds[-1]], batch_size=amount.batch_size)
        if samples == most:
            raise ValueError(
                f"{rows} rows are asked for, but max_epochs of data.sources allows samples for {found}; lower train.steps or "
                "train.batch_size, or raise max_epochs"
            )
        samples = min(round(samples * max(MORE, rows / max(found, 1))) + 1, most)


def _by_length(tokens: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
    """Sorts windows of some batches by length; the batches of a window then come in a drawn order."""
    members = []
    for first in range(0, len(tokens), WINDOW * batch_size):
        inside = np.argsort(tokens[first : first + WINDOW * batch_size], kind="stable") + first
        batches = inside.reshape(-1, batch_size)
        members.append(batches[np.random.default_rng([seed, first]).permutation(len(batches))].reshape(-1))
    return np.concatenate(members)
