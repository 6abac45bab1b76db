"""What each step of a run holds: tokens, pictures, floating-point operations."""

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np

from data.dataset import MixedDataset, Samples
from data.index import Index
from data.pictures import Pictures
from data.plan import Plan, tokens_of
from model.flops import Costs, Work
from model.tower_work import tower_work


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What the steps of a run hold, over all processes.

    Attributes:
        tokens: Real ones, padding not, int64 [steps].
        images: Pictures, int64 [steps].
        operations: Floating-point operations by the definition in model/flops.py, float64 [steps]; None where nobody needs them.
    """

    tokens: np.ndarray
    images: np.ndarray
    operations: np.ndarray | None = None


def amounts(dataset: MixedDataset, costs: Costs | None = None, config: Any = None, pictures: Pictures | None = None) -> Amounts:
    """Counts every step of a plan.

    Args:
        dataset: The planned rows.
        costs: From `model.flops.step_costs`; None: operations are not counted.
        config: The model's, if operations are counted.
        pictures: How it shows pictures, if operations are counted.
    """
    sources, plan = dataset.sources, dataset.plan
    operations = None
    if costs is not None and pictures is not None:
        works = [vars(work_of(one, config, pictures)) for one in sources]
        steps = {one.name: per_step(plan, [work[one.name] for work in works]) for one in fields(Work)}
        operations = costs.of(Work(**steps))
    tokens, images = (per_step(plan, [getattr(one, name) for one in sources]) for name in ("tokens", "num_images"))
    return Amounts(tokens=tokens, images=images, operations=operations)


def per_step(plan: Plan, per_sample: list[np.ndarray]) -> np.ndarray:
    """Sums a number of each sample of each source over the steps, int64 [steps]."""
    return plan.per_row(tokens_of(plan.order, per_sample)).reshape(plan.steps, plan.batch_size).sum(axis=1)


def work_of(source: Samples, config: Any, pictures: Pictures) -> Work:
    """What each sample of a source adds to a step, int64 [samples] each.

    Of dialogues of a tree that share a row, pairs are counted as if each token saw all before it, labels as if none were shared.
    """
    tokens = source.tokens.astype(np.int64)
    labels = np.minimum(np.add.reduceat(_labels(source.index)[source.rows], source.bounds[:-1]), tokens)
    tower = {one.name: np.zeros(len(source), np.int64) for one in fields(Work)}

    @cache
    def of_pictures(sizes: tuple[tuple[int, int], ...]) -> Work:
        return tower_work(config, sizes, pictures.tokens(sizes))

    sizes = source.index.table.data.column("sizes") if pictures.needs_sizes else None
    for number in np.flatnonzero(source.num_images):
        flat = [0, 0] * int(source.num_images[number])
        if sizes is not None:
            flat = [side for row in source.rows[source.bounds[number] : source.bounds[number + 1]] for side in sizes[int(row)].as_py()]
        for name, count in vars(of_pictures(tuple(zip(flat[::2], flat[1::2], strict=True)))).items():
            tower[name][number] = count
    return Work(**tower | {"tokens": tokens, "pairs": tokens * (tokens + 1) // 2, "labels": labels})


def _labels(index: Index) -> np.ndarray:
    """Tokens that carry loss of each row of an index, int64 [rows]."""
    spans = index.table.data.column("spans").combine_chunks()
    bounds = np.concatenate([[0], np.cumsum(spans.value_lengths().to_numpy())])
    edges = np.maximum(spans.flatten().to_numpy(), 1).astype(np.int64)  # nothing predicts the first token
    behind = np.concatenate([[0], np.cumsum(edges[1::2] - edges[::2])])
    return np.diff(behind[bounds // 2])
