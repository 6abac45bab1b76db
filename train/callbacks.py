"""What happens beside the steps: metrics on disk, a progress bar, checkpoints, a stop at a broken loss."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from data.atomic import write_text
from model.manifest import Manifest, check, frozen_hashes


class Metrics(TrainerCallback):
    """Appends a line for each logged step to metrics.jsonl and keeps the losses.

    Args:
        path: The file; None on processes that write nothing. Lines of an earlier part of the run stay, up to where this one goes on.
        tokens: For each step, real tokens (no padding) in its batch, int64 [steps].
    """

    def __init__(self, path: Path | None, tokens: np.ndarray) -> None:
        self.losses: list[float] = []
        self._seen = np.cumsum(tokens)
        self._before = 0.0
        self._start = time.perf_counter()
        self._path = path
        self._file: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        lines: list[dict[str, Any]] = []
        if self._path is not None:
            if state.global_step and self._path.is_file():
                lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()[: state.global_step]]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self.losses = [line["loss"] for line in lines]
        self._before = lines[-1]["seconds"] if lines else 0.0
        self._start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        step = state.global_step
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss is {logs['loss']} at step {step}; lower train.learning_rate, "
                f"or look for a broken record in the data (earlier steps: {self._path})"
            )
        self.losses.append(logs["loss"])
        line = {
            "step": step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": int(self._seen[step - 1]),
            "seconds": round(self._before + time.perf_counter() - self._start, 3),
        }
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if self._file is not None:
            self._file.close()


class Progress(TrainerCallback):
    """A bar with time left and the running loss."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from tqdm import tqdm

        done = state.global_step
        self._bar = tqdm(total=state.max_steps, initial=done, desc=self._name, unit="step", mininterval=0.5, dynamic_ncols=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if self._bar is not None and "loss" in logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class CheckManifest(TrainerCallback):
    """Fails unless exactly the manifest's tensors train once the engine is built; then, if asked, unless the frozen ones stay as they are.

    Args:
        model: The model that trains.
        manifest: What trains.
        verify_frozen: Whether to hash every frozen tensor before the first step, compare after it and after the last.
    """

    def __init__(self, model: Any, manifest: Manifest, *, verify_frozen: bool) -> None:
        self._model, self._manifest, self._verify = model, manifest, verify_frozen
        self._before: dict[str, str] = {}
        self._compared = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        check(self._model, self._manifest, "after the engine was built")
        if self._verify:
            self._before = frozen_hashes(self._model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._verify and not self._compared:
            self._compare(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        check(self._model, self._manifest, "at the end of training")
        if self._verify:
            self._compare(state.global_step)

    def _compare(self, step: int) -> None:
        self._compared = True
        moved = [name for name, value in frozen_hashes(self._model).items() if value != self._before[name]]
        if moved:
            raise RuntimeError(
                f"{len(moved)} frozen tensors changed by step {step}: {', '.join(moved[:3])}{', ...' if len(moved) > 3 else ''}"
            )


class SaveEvery(TrainerCallback):
    """Calls `save(step)` after every so many steps, the last one left out: the run saves that itself.

    It does so once the step is logged: what goes on from there finds the step's line in metrics.jsonl.
    """

    def __init__(self, every: int, save: Callable[[int], Any]) -> None:
        self._every, self._save = every, save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs and state.global_step % self._every == 0 and state.global_step < state.max_steps:
            self._save(state.global_step)
