"""Training runs whose batches are arranged by hand, to compare those of two ranks with one process's."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

PICTURE, TEXT = "I", "T"
FIRST_TEXT = 8  # `write_data` writes eight records about pictures, then eight of text

Row = list[int]  # record numbers, those of a second source behind the first one's; several are packed
Step = list[Row]
Values = dict[str, Any]


def values_of(folder: Path, base: Path, data: Path, **settings: Any) -> Values:
    """A recipe's values: settings of its `train` section; `model` and `reading` go into those of model and data."""
    return {
        "model": {"base": str(base), "preset": "full", **settings.pop("model", {})},
        "data": {"sources": [{"path": str(data)}], **settings.pop("reading", {})},
        "train": {"learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 4, "schedule": "constant", "warmup_share": 0.0} | settings,
        "output": str(folder),
    }


def blended(blend: str, passes: int) -> Step:
    """A step's rows in the order in which they are dealt out, one record each.

    Args:
        blend: What each rank's rows show, as "TT II": all of rank 0, then all of rank 1.
        passes: Forward passes of each rank. Pass p of all ranks together belongs to rank p modulo their number.
    """
    ranks = blend.split()
    records = {PICTURE: iter(range(FIRST_TEXT)), TEXT: iter(range(FIRST_TEXT, 2 * FIRST_TEXT))}
    rows = [[[next(records[kind])] for kind in rank] for rank in ranks]
    micro = len(ranks[0]) // passes
    return [row for turn in range(passes) for rank in rows for row in rank[turn * micro : (turn + 1) * micro]]


@contextmanager
def arranged(steps: Sequence[Step]) -> Iterator[None]:
    """Makes every run inside take exactly these rows of its sources, which hold as many records each as `write_data` writes."""
    import numpy as np

    from data.mixture import Order
    from data.plan import Plan

    rows = [row for step in steps for row in step]
    records = [record for row in rows for record in row]
    positions = np.array([divmod(record, 2 * FIRST_TEXT) for record in records], np.int32)
    order = Order(positions=positions, epochs=tuple(np.bincount(positions[:, 0]) / (2 * FIRST_TEXT)))
    bounds = np.cumsum([0, *map(len, rows)])
    plan = Plan(order=order, bounds=bounds, members=np.arange(len(records)), batch_size=len(steps[0]))
    with patch("train.rows.make_plan", lambda *_, **__: plan), patch("train.rows.dealt", lambda one, *_, **__: one):
        yield


@contextmanager
def watched() -> Iterator[list[str]]:
    """What each forward pass of this process was shown: "pictures", "blank" or "text"."""
    from train.trainer import MixtureTrainer

    seen: list[str] = []
    original = MixtureTrainer.compute_loss

    def watching(self: Any, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        pictures = "pixel_values" in inputs
        checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        assert checkpoints == self.args.gradient_checkpointing
        found = original(self, model, inputs, *arguments, **options)
        seen.append("pictures" if pictures else "blank" if self.shows_a_blank else "text")
        return found

    with patch.object(MixtureTrainer, "compute_loss", watching):
        yield seen


def train_arranged(values: Values, steps: Sequence[Step]) -> list[str]:
    """Trains as a recipe's values say, on these rows; gives what each forward pass of this process was shown."""
    from train.config import make_recipe
    from train.run import train

    with watched() as seen, arranged(steps):
        train(make_recipe(values), progress=False)
    return seen


def curve(folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of a run's steps."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in ("loss", "grad_norm")}


def checkpoint(folder: Path) -> Path:
    """The folder of a run's only checkpoint."""
    (found,) = (folder / "checkpoints").iterdir()
    return found


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a run's only checkpoint."""
    from safetensors.torch import load_file

    return load_file(checkpoint(folder) / "model.safetensors")


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest relative difference of two checkpoints' tensors, by their norms.

    The bias of attention's keys is left out: it adds the same to every score of a query, so its gradient is rounding alone, which AdamW's
    steps blow up.
    """
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one if not name.endswith("k_proj.bias"))
