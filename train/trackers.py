"""Where curves are shown: TensorBoard, Weights & Biases, trackio."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from train.config import Recipe

FOLDER = "tensorboard"
PROJECT = "perennial"
FLUSH = 10  # seconds until TensorBoard's file holds what was logged


def check_installed(names: Sequence[str]) -> None:
    """Fails early where a recipe asks for a tracker that is not installed.

    Raises:
        ValueError: The message says what to install.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"train.trackers: {', '.join(missing)} is not installed; pip install {' '.join(missing)} (the extra of that name: "
            f"pip install -e '.[{','.join(missing)}]'), or leave it out"
        )


def trackers(recipe: Recipe) -> list[Any]:
    """The callbacks of a recipe's `train.trackers`; for the process that writes files alone."""
    kinds = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}
    return [kinds[name](recipe) for name in recipe.train.trackers]


class TensorBoard(TensorBoardCallback):
    """transformers' own, with its files in the run folder; one event for each step, which takes a tenth of the time of its many.

    Of a run that goes on, TensorBoard hides what came behind the step from which it does.
    """

    tb_writer: Any

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._recipe = recipe
        self.logging_dir = str(Path(str(recipe.output)) / FOLDER)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Nothing: the step from which the run goes on is known only at the first step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.tb_writer is None:
            self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=state.global_step + 1, flush_secs=FLUSH)
            super().on_train_begin(args, state, control, **others)
            self.tb_writer.add_text("recipe", f"```yaml\n{as_yaml(self._recipe)}```")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.tb_writer is None or "loss" not in logs:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=f"train/{name}", simple_value=value) for name, value in logs.items() if isinstance(value, int | float)]
        self.tb_writer.file_writer.add_summary(Summary(value=values), state.global_step)

    def close(self) -> None:
        """Closes the files of a run that did not come to its end."""
        if self.tb_writer is not None:
            self.tb_writer.close()
            self.tb_writer = None


class WeightsAndBiases(WandbCallback):
    """transformers' own, in a run named after the folder, with the recipe as its config; $WANDB_PROJECT chooses another project."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._recipe = recipe
        self._own: Any = None

    def on_train_begin(self, *arguments: Any, **others: Any) -> None:
        if self._wandb.run is None:
            folder = Path(str(self._recipe.output))
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            self._own = self._wandb.init(project=project, name=folder.name, dir=str(folder), config=self._recipe.model_dump(mode="json"))
        super().on_train_begin(*arguments, **others)

    def on_train_end(self, *arguments: Any, **others: Any) -> None:
        super().on_train_end(*arguments, **others)
        self._finish(0)

    def close(self) -> None:
        """Marks a run that did not come to its end as failed."""
        self._finish(1)

    def _finish(self, code: int) -> None:
        if self._own is not None:
            self._own.finish(exit_code=code)
            self._own = None


class Trackio(TrackioCallback):
    """transformers' own, in a run named after the folder, with the recipe in its config; kept on this machine."""

    _initialized: bool

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._recipe = recipe

    def setup(self, args: Any, state: Any, model: Any, **others: Any) -> None:
        args.project, args.run_name = PROJECT, Path(str(self._recipe.output)).name
        super().setup(args, state, model, **others)
        self._trackio.config.update({"recipe": self._recipe.model_dump(mode="json")}, allow_val_change=True)

    def close(self) -> None:
        """Ends a run that did not come to its end."""
        if self._initialized:
            self._trackio.finish()
            self._initialized = False


def as_yaml(recipe: Recipe) -> str:
    """A recipe as its file would hold it."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
