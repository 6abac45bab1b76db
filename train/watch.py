"""What a person sees of a run while it trains: curves, speeds, a bar, a stop at a broken loss."""

from pathlib import Path
from typing import Any

import torch

from model.chips import peak
from model.flops import step_costs
from train import distributed
from train.broken import Broken
from train.config import Recipe
from train.metrics import Metrics
from train.pace import Pace
from train.progress import Progress
from train.trackers import trackers
from train.work import amounts


def watchers(trainer: Any, recipe: Recipe, progress: bool) -> list[Any]:
    """The callbacks, in the order in which they must be called: the first stops the others, the second tells them speeds.

    Args:
        trainer: Built, with its planned rows; its engine is not needed yet.
        recipe: What runs.
        progress: Show a bar.
    """
    folder, first = Path(str(recipe.output)), distributed.is_first()
    found: list[Any] = [
        Broken(trainer.train_dataset, folder, max_rise=recipe.train.max_rise, writes=first),
        Metrics(folder / "metrics.jsonl" if first else None, pace_of(trainer)),
    ]
    if first:
        found += [Progress(recipe.train.stage)] if progress else []
        found += trackers(recipe)
    return found


def pace_of(trainer: Any) -> Pace:
    """Counts a run's tokens and pictures; its operations too where the chips' peak is known."""
    dataset, chip = trainer.train_dataset, chip_peak()
    if chip is None or not distributed.is_first():
        return Pace(amounts(dataset))
    costs = step_costs(trainer.model, {tensor.name for tensor in trainer.manifest.tensors})
    counted = amounts(dataset, costs, trainer.model.config, trainer.data_collator.pictures)
    return Pace(counted, chip * distributed.world_size())


def chip_peak() -> float | None:
    """Operations a second of the GPU that this process trains on, dense in bfloat16; None without one, or one that is not known."""
    return peak(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
