"""What an unfinished run needs to go on: optimizer, schedule, random numbers, its place in the data."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.position import Reading, check_position, position
from model.manifest import Manifest, compare
from train import distributed
from train.config import Recipe
from train.precision import resolved

STATE, POSITION, TRAINABLE, SETTINGS = "state", "position.json", "trainable.json", "settings.json"
EFFECTLESS = {"train": {"save_every", "save_dtype", "resume", "verify_frozen", "stage"}, "model": {"preset", "presets"}}
"""Settings that change no step, or are compared by what they come to."""
PREFIX = "step-"


def is_wanted(folder: Path, mode: str, ended: str | None) -> bool:
    """Whether the run in a folder is to be continued.

    Args:
        folder: The run folder.
        mode: `train.resume`.
        ended: How the run in it ended; None where there is none.

    Raises:
        ValueError: It must be, but cannot.
    """
    possible = ended not in (None, "done") and _last(folder) is not None
    if mode == "always" and not possible:
        raise ValueError(
            f"train.resume is always, but {folder} holds no unfinished run with a saved state; give train.resume: if_possible to begin one "
            "(train.save_every makes states on the way)"
        )
    return possible and mode != "never"


def find(recipe: Recipe, manifest: Manifest, reading: Reading, progress: bool) -> Path | None:
    """The saved state to go on from, checked against what is about to run; None where there is none.

    Raises:
        ValueError: Other tensors would train, other samples would have been seen, or a setting is another one; the message says which.
    """
    folder = Path(str(recipe.output))
    saved = _last(folder)
    if saved is None:
        return None
    compare(json.loads((saved / TRAINABLE).read_text(encoding="utf-8")), manifest, str(saved))
    before = json.loads((saved / POSITION).read_text(encoding="utf-8"))
    check_position(before, position(reading, before["offset"]), str(saved))
    _check_settings(json.loads((saved / SETTINGS).read_text(encoding="utf-8")), settings(recipe), saved)
    if progress and distributed.is_first():
        print(f"going on behind step {step_of(saved)} of {reading.plan.steps}", file=sys.stderr)
    return saved


def settings(recipe: Recipe) -> dict[str, Any]:
    """What decides how a step is taken, as JSON takes it."""
    return recipe.model_dump(mode="json", include={"model", "train"}, exclude=EFFECTLESS) | {"precision": resolved(recipe.train.precision)}


def _check_settings(before: dict[str, Any], now: dict[str, Any], saved: Path) -> None:
    changed = [
        f"{section}.{name} was {before[section].get(name)}, is {value}"
        for section in ("model", "train")
        for name, value in now[section].items()
        if before[section].get(name) != value
    ]
    if before["precision"] != now["precision"]:
        changed.append(f"it was computed in {before['precision']}, would be in {now['precision']}")
    if changed:
        raise ValueError(
            f"{saved} was saved with other settings: {'; '.join(changed)}. Give the old ones to go on, or train.resume: never to begin anew"
        )


def save(trainer: Any, recipe: Recipe, step: int, manifest: Manifest, reading: Reading) -> Path:
    """Saves a state in place of the one before; it appears when all processes have written their part.

    Args:
        trainer: The Trainer, between two steps.
        recipe: What runs.
        step: Optimizer steps taken.
        manifest: What trains.
        reading: What is read.
    """
    folder = Path(str(recipe.output))
    target = folder / STATE / f"{PREFIX}{step}"
    partial = target.with_name(f".{target.name}.partial")
    if distributed.is_first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.wait()
    trainer.save_progress(str(partial))
    if distributed.is_first():
        write_json(partial / TRAINABLE, manifest.to_dict())
        write_json(partial / SETTINGS, settings(recipe))
        write_json(partial / POSITION, position(reading, step * reading.plan.batch_size))
    distributed.wait()
    if distributed.is_first():
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        for old in _states(folder):
            if old != target:
                shutil.rmtree(old)
    distributed.wait()
    return target


def forget(folder: Path) -> None:
    """Removes the states of a run that is done."""
    if distributed.is_first():
        shutil.rmtree(folder / STATE, ignore_errors=True)


def step_of(saved: Path) -> int:
    """The step behind which a state was saved."""
    return int(saved.name.removeprefix(PREFIX))


def _states(folder: Path) -> list[Path]:
    return sorted((folder / STATE).glob(f"{PREFIX}*"), key=step_of)


def _last(folder: Path) -> Path | None:
    states = _states(folder)
    return states[-1] if states else None
