"""Which saved state an unfinished run goes on from, whether it fits, how many are kept."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.position import Reading, check_position, position
from model.manifest import Manifest, compare
from model.partial import PARTS
from train import distributed, integrity, state
from train.config import Recipe
from train.folders import PREFIX, numbered, put_in_place, remove, step_of
from train.precision import resolved
from train.record import device, versions

STATE, POSITION, TRAINABLE, SETTINGS = "state", "position.json", "trainable.json", "settings.json"
EFFECTLESS = {
    "train": {
        *("save_every", "save_dtype", "resume", "verify_frozen", "stage", "checkpoints", "keep_states", "keep_checkpoints", "max_rise"),
        *("trackers", "zero", "micro_batch_size", "gradient_checkpointing"),
    },
    "model": {"base", "preset", "presets"},
}
"""Settings that change no step but for the order in which numbers are added, or are compared by what they come to."""
ENGINE = ("zero", "micro_batch_size", "gradient_checkpointing")
"""Of these, what changes that order."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What decides every step of a run.

    Attributes:
        recipe: The recipe.
        manifest: What trains.
        reading: What is read.
        base: Fingerprint of the model as it was loaded or assembled, see `model.identity`.
        kernel: The attention kernel, as it was settled.
    """

    recipe: Recipe
    manifest: Manifest
    reading: Reading
    base: str
    kernel: str

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(str(self.recipe.output))

    def describe_base(self) -> dict[str, Any]:
        """What `model.partial` needs to load a checkpoint that holds only what trains."""
        assert self.recipe.model is not None
        section = self.recipe.model.model_dump(mode="json")
        for name in (*PARTS, "projector", "chat_template"):
            if section[name] is not None and Path(section[name]).exists():
                section[name] = str(Path(section[name]).resolve())  # it may be loaded from another folder
        return {"model": section, "seed": self.recipe.train.seed, "fingerprint": self.base}


def is_wanted(folder: Path, mode: str, ended: str | None) -> bool:
    """Whether the run in a folder is to be continued.

    Args:
        folder: The run folder.
        mode: `train.resume`.
        ended: How the run in it ended; None where there is none.

    Raises:
        ValueError: It must be, but cannot.
    """
    possible = ended not in (None, "done") and bool(numbered(folder / STATE))
    if mode == "always" and not possible:
        raise ValueError(
            f"train.resume is always, but {folder} holds no unfinished run with a saved state; give train.resume: if_possible to begin one "
            "(train.save_every makes states on the way)"
        )
    return possible and mode != "never"


def find(run: Run, progress: bool) -> Path | None:
    """The newest undamaged state, checked against what is about to run; None where there is none. A collective.

    Raises:
        ValueError: All are damaged; or other tensors would train, another base was loaded, other samples would have been seen, a setting is
            another one: the message says which.
    """
    saved = _newest(run.folder)
    if saved is None:
        return None
    compare(json.loads((saved / TRAINABLE).read_text(encoding="utf-8")), run.manifest, str(saved))
    before = json.loads((saved / POSITION).read_text(encoding="utf-8"))
    check_position(before, position(run.reading, before["offset"]), str(saved))
    settings = json.loads((saved / SETTINGS).read_text(encoding="utf-8"))
    _check_settings(settings, settings_of(run), saved)
    if progress and distributed.is_first():
        print(f"going on behind step {step_of(saved)} of {run.reading.plan.steps}", file=sys.stderr)
        for line in _what_changes(settings["engine"], _engine(run), run):
            print(line, file=sys.stderr)
    return saved


def _newest(folder: Path) -> Path | None:
    """The newest state that is whole, on which all processes agree; each computes the hashes of its share of the files."""
    names = distributed.everywhere([path.name for path in numbered(folder / STATE)])[0]
    broken = []
    for name in reversed(names):
        path = folder / STATE / name
        seen = distributed.everywhere(path.is_dir())
        if not all(seen):
            raise ValueError(
                f"{path}: process {seen.index(False)} does not see it, process 0 does; give an output on a disk that all machines share"
            )
        problems = distributed.everywhere(integrity.damage(path, distributed.rank(), distributed.world_size()))
        problem = next((one for one in problems if one is not None), None)
        if problem is None:
            return path
        broken.append(problem)
        if distributed.is_first():
            print(f"{problem}; trying the state before", file=sys.stderr)
    if broken:
        raise ValueError(
            f"every saved state of {folder} is damaged: {'; '.join(broken)}. Bring the files back to go on, or give train.resume: never to "
            "begin anew"
        )
    return None


def settings_of(run: Run) -> dict[str, Any]:
    """What decides how a step is taken, as JSON takes it; under "engine" what decides the order of its sums alone."""
    found = run.recipe.model_dump(mode="json", include={"model", "train"}, exclude=EFFECTLESS)
    return found | {"precision": resolved(run.recipe.train.precision), "base": run.base, "engine": _engine(run)}


def _engine(run: Run) -> dict[str, Any]:
    settings = {f"train.{name}": getattr(run.recipe.train, name) for name in ENGINE}
    return {"processes": distributed.world_size(), "attention": run.kernel, "device": device()} | settings | versions()


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
    if before["base"] != now["base"]:
        raise ValueError(
            f"{saved} holds only what trains, and the model that it was trained from had other weights than the one loaded now; give the "
            "old one (model.base, model.vision, model.language, train.seed) to go on, or train.resume: never to begin anew"
        )


def _what_changes(before: dict[str, Any], now: dict[str, Any], run: Run) -> list[str]:
    """A line for the person who waits where the engine is another one; none where all goes on to the bit."""
    changed = [f"{name} was {before[name]}, is {now[name]}" for name in now if before.get(name) != now[name]]
    if not changed:
        return []
    model = run.recipe.model
    draws = "; dropout draws other numbers" if model is not None and model.adapter is not None and model.adapter.dropout else ""
    return [f"{'; '.join(changed)}: sums are added in another order, so losses agree to about 1e-5 instead of to the bit{draws}"]


def save(trainer: Any, run: Run, step: int) -> Path:
    """Saves a state, which appears when all processes have written their part; then older ones go, but for `keep_states`. A collective.

    Nothing is flushed to the disk by force: should a machine lose power, hashes tell, and the state before serves.
    """
    target = run.folder / STATE / f"{PREFIX}{step}"
    partial = target.with_name(f".{target.name}.partial")
    if distributed.is_first():
        remove(partial)
        partial.mkdir(parents=True)
    distributed.wait()
    files: dict[str, Any] = {}
    for part in distributed.everywhere(state.write(trainer, partial)):
        files |= part
    if distributed.is_first():
        descriptions = {
            TRAINABLE: run.manifest.to_dict(),
            SETTINGS: settings_of(run),
            POSITION: position(run.reading, step * run.reading.plan.batch_size),
        }
        for name, values in descriptions.items():
            write_json(partial / name, values)
            files[name] = integrity.describe(partial / name)
        integrity.seal(partial, files, step=step, processes=distributed.world_size())
        put_in_place(partial, target)
        for old in numbered(run.folder / STATE)[: -run.recipe.train.keep_states]:
            remove(old)
    distributed.wait()
    return target


def go_on(trainer: Any, saved: Path) -> None:
    """Lets a Trainer begin behind a saved state that `find` gave."""
    manifest = integrity.manifest_of(saved)
    assert manifest is not None
    trainer.first_row = step_of(saved) * trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    trainer.first_row *= distributed.world_size()
    # First: what the others do when training begins depends on the step.
    trainer.callback_handler.callbacks.insert(0, state.GoOn(trainer, saved, step_of(saved), manifest["processes"]))


def forget(folder: Path) -> None:
    """Removes the states of a run that is done."""
    if distributed.is_first():
        shutil.rmtree(folder / STATE, ignore_errors=True)
