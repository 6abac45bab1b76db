"""metrics.jsonl: a line for each step."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from data.atomic import write_text
from train.pace import Pace

LOSS, TERM = "loss/", "term/"  # what begins the names of losses by source, of terms of the loss, in a step's logs
ROUNDED = ("padding_share", "tokens_per_second", "images_per_second", "mfu")


class Metrics(TrainerCallback):
    """Appends a line for each logged step to metrics.jsonl, keeps the losses, adds speeds to the logs for the callbacks behind it.

    Args:
        path: The file; None on processes that write nothing. Lines of an earlier part of the run stay, up to where this one goes on.
        pace: Counts tokens, pictures, speeds.
    """

    def __init__(self, path: Path | None, pace: Pace) -> None:
        self.losses: list[float] = []
        self._pace, self._path = pace, path
        self._before, self._start = 0.0, time.perf_counter()
        self._begun = False
        self._file: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the file once the step is known from which the run goes on."""
        if self._begun:
            return
        self._begun = True
        self._pace.start(state.global_step)
        if self._path is None:
            return
        lines = _kept(self._path, state.global_step)
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self.losses = [line["loss"] for line in lines]
        self._before = lines[-1]["seconds"] if lines else 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        self.losses.append(logs["loss"])
        measured = self._pace.after(state.global_step) | _memory()
        if self._file is not None:
            line = {"step": state.global_step, "seconds": round(self._before + time.perf_counter() - self._start, 3)}
            line |= _line(logs | measured)
            self._file.write(json.dumps(line) + "\n")
        logs |= measured

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if self._file is not None:
            self._file.close()


def _kept(path: Path, steps: int) -> list[dict[str, Any]]:
    """The lines of the first steps of a file; one that a crash cut short ends it."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines()[:steps] if steps and path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _line(logs: dict[str, float]) -> dict[str, Any]:
    """A step's logs as its line holds them."""
    plain = ("loss", "learning_rate", "grad_norm", "tokens", "images", *ROUNDED, "peak_memory_gib")
    line: dict[str, Any] = {name: float(f"{logs[name]:.6g}") if name in ROUNDED else logs[name] for name in plain if name in logs}
    for prefix, key in ((LOSS, "loss_by_source"), (TERM, "loss_by_term")):
        found = {name.removeprefix(prefix): value for name, value in logs.items() if name.startswith(prefix)}
        line |= {key: found} if found else {}
    return line


def _memory() -> dict[str, float]:
    """The most that this process's GPU has held so far, in GiB; nothing without one."""
    return {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)} if torch.cuda.is_initialized() else {}
