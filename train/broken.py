"""Stops a run whose loss broke, with the records of the step that broke it."""

import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback

from data.atomic import write_json
from data.dataset import MixedDataset, Samples
from train.folders import numbered, step_of
from train.metrics import LOSS

OFFENDING = "offending.json"
WINDOW = 64  # losses whose median a new one is compared with
FEWEST = 16  # losses without which nothing is called a rise


class Broken(TrainerCallback):
    """Raises FloatingPointError, on all processes in the same step, once loss or gradient norm is no number, or the loss leaps up.

    It must stand before the callbacks that write metrics and states, so that those of the step before are the last.

    Args:
        dataset: The planned rows; tells which records the step held.
        folder: The run folder, which gets offending.json.
        max_rise: Nats above the median of the last 64 losses from which a loss counts as broken; None: any finite one is fine.
        writes: Whether this process writes the file.
    """

    def __init__(self, dataset: MixedDataset, folder: Path, *, max_rise: float | None, writes: bool) -> None:
        self._dataset, self._folder, self._max_rise, self._writes = dataset, folder, max_rise, writes
        self._last: deque[float] = deque(maxlen=WINDOW)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self._writes:
            (self._folder / OFFENDING).unlink(missing_ok=True)  # of an earlier part of the run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        reason = broken(logs["loss"], logs.get("grad_norm"), self._last, self._max_rise)
        if reason is not None:
            if self._writes:
                write_json(self._folder / OFFENDING, self.offending(state.global_step, logs, reason))
            raise FloatingPointError(self._message(state.global_step, reason))
        self._last.append(logs["loss"])

    def offending(self, step: int, logs: dict[str, float], reason: str) -> dict[str, Any]:
        """What offending.json holds: the step's numbers, and every record of its batch over all processes."""
        plan = self._dataset.plan
        records = [
            {"row": row} | record
            for row in range(plan.batch_size)
            for source, number in plan.row((step - 1) * plan.batch_size + row)
            for record in records_of(self._dataset.sources[source], int(number))
        ]
        return {
            "step": step,
            "reason": reason,
            "loss": _json(logs["loss"]),
            "grad_norm": _json(_norm(logs.get("grad_norm"))),
            "learning_rate": logs.get("learning_rate"),
            "loss_by_source": {name.removeprefix(LOSS): _json(value) for name, value in logs.items() if name.startswith(LOSS)},
            "loss_before": [_json(loss) for loss in self._last],
            "records": records,
        }

    def remembered(self) -> dict[str, torch.Tensor]:
        """What a saved state keeps of it: float64 [losses]."""
        return {"losses": torch.tensor(list(self._last), dtype=torch.float64)}

    def remember(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up what `remembered` gave."""
        self._last = deque(tensors["losses"].tolist(), maxlen=WINDOW)

    def _message(self, step: int, reason: str) -> str:
        rise = (
            " If such a rise is harmless, raise train.max_rise; the same command then goes on from the last state."
            if self._max_rise is not None and "above" in reason
            else ""
        )
        return (
            f"{reason} at step {step}; lower train.learning_rate, or remove the broken record: {self._folder / OFFENDING} lists all "
            f"records of the step.{rise} {_what_is_kept(self._folder, step)}"
        )


def broken(loss: float, grad_norm: float | None, last: deque[float], max_rise: float | None) -> str | None:
    """What is wrong with a step's numbers, in words; None where nothing is.

    Args:
        loss: Nats a token.
        grad_norm: Before clipping; DeepSpeed gives -1 in place of one that is no number.
        last: Losses of the steps before, at most 64.
        max_rise: Nats above their median that are too much; None: none are.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    norm = _norm(grad_norm)
    if norm is not None and not math.isfinite(norm):
        return f"the gradient norm is {norm} (loss {loss:.4g})"
    usual = median(last) if len(last) >= FEWEST else math.inf
    if max_rise is not None and loss > usual + max_rise:
        return f"the loss is {loss:.4g}, more than train.max_rise {max_rise:g} above {usual:.4g}, the median of the last {len(last)},"
    return None


def records_of(source: Samples, number: int) -> list[dict[str, Any]]:
    """The records behind a sample: file, number in it, id (None where it has none), tokens; of joined dialogues all."""
    rows = source.rows[source.bounds[number] : source.bounds[number + 1]].tolist()
    table = source.index.table.data
    return [
        {
            "source": source.config.path,
            "record": table.column("record")[row].as_py(),
            "id": table.column("id")[row].as_py(),
            "tokens": table.column("tokens")[row].as_py(),
        }
        for row in rows
    ]


def _norm(grad_norm: float | None) -> float | None:
    return math.nan if grad_norm is not None and grad_norm < 0 else grad_norm


def _json(value: float | None) -> float | str | None:
    """JSON knows neither NaN nor infinities: their names instead."""
    return value if value is None or math.isfinite(value) else str(value)


def _what_is_kept(folder: Path, step: int) -> str:
    """What a user can go on from."""
    kept = [path for path in numbered(folder / "checkpoints") if step_of(path) < step]
    if not kept:
        return "No checkpoint was saved before it (train.save_every makes some on the way)"
    return f"The checkpoint before it is kept: begin from it with model.base: {kept[-1]} and another output"
