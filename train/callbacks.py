"""What happens beside the steps to keep a run sound: the manifest is checked, checkpoints are saved."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from model.manifest import Manifest, check, frozen_hashes


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
    """Saves after every so many steps, stops where all processes agreed to; the last step is left out: the run saves that itself.

    It does so once the step is logged: what goes on from there finds the step's line in metrics.jsonl.

    Args:
        every: Steps between checkpoints; None: none on the way.
        save_checkpoint: Called with the step, where a checkpoint is due.
        save_state: Called with the step, where a checkpoint is due or the training stops.
        stops: Whether to stop behind the step, the same in all processes.
    """

    def __init__(
        self, every: int | None, save_checkpoint: Callable[[int], Any], save_state: Callable[[int], Any], stops: Callable[[], bool]
    ) -> None:
        self._every, self._save_checkpoint, self._save_state, self._stops = every, save_checkpoint, save_state, stops

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        step = state.global_step
        if "loss" not in logs or step >= state.max_steps:
            return
        due = self._every is not None and step % self._every == 0
        if due:
            self._save_checkpoint(step)
        if due or self._stops():
            self._save_state(step)
        control.should_training_stop = control.should_training_stop or self._stops()
