"""What a sequence keeps on disk beside its runs, so that another call goes on where one was stopped."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from data.atomic import write_json, write_text
from data.dataset import check_shares, load_sources
from data.fingerprint import fingerprint, key_of
from data.index import cache_folder, states_of
from data.pictures import pictures_of
from data.position import EFFECTLESS as EFFECTLESS_DATA
from model.build import load_processor
from model.processor import tokenizer_of
from train import distributed
from train.evaluate.tasks import Suite, SuiteConfig
from train.folders import remove
from train.resume import EFFECTLESS
from train.rows import plan_order
from train.run import status
from train.sequence_config import MergeConfig
from train.sequence_plan import Line, Stage

DONE = ".done-"  # in front of a mark that the first process leaves for the others
SHOWN = 5  # changes in a message


class Kept:
    """The settings of every stage, each with a key that depends on all stages before it.

    Args:
        stages: All, in the order of their running.
        base_key: Of the model that all begin with.
        merge: What happens before a model is handed over.
    """

    def __init__(self, stages: Sequence[Stage], base_key: str, merge: MergeConfig | None) -> None:
        self.base_key, self.merge = base_key, merge
        self._stages = {(stage.seed, stage.tasks): stage for stage in stages}
        self._settings: dict[Path, dict[str, Any]] = {}

    def settings(self, stage: Stage) -> dict[str, Any]:
        """What decides how a stage trains."""
        if stage.folder not in self._settings:
            recipe = stage.recipe
            assert recipe.data is not None
            hashes = {one.path: [state.sha256 for state in states_of(one, cache_folder(recipe.data.cache))] for one in recipe.data.sources}
            self._settings[stage.folder] = {
                "model": recipe.model_dump(mode="json", include={"model"}, exclude={"model": {"base"}})["model"],
                "data": recipe.data.model_dump(mode="json", exclude=set(EFFECTLESS_DATA)),
                # the dtype in which weights are saved changes no step, but what is handed over
                "train": recipe.train.model_dump(mode="json", exclude=EFFECTLESS["train"] - {"save_dtype"}),
                "files": hashes,
                "before": self._before(stage),
            }
        return self._settings[stage.folder]

    def handed_over(self, stage: Stage) -> str:
        """Key of the model behind a stage."""
        return key_of(self.settings(stage), None if self.merge is None else self.merge.model_dump(mode="json"))

    def check(self, lines: Sequence[Line], overwrite: bool) -> list[str]:
        """What is there but was made with other settings; with `overwrite` it is removed instead."""
        problems = []
        for line in lines:
            for stage in line.stages:
                own, path = stage.folder.parent == line.folder, line.link(stage)
                problem = self._problem(stage) if own else _real(path)
                if own and path.is_symlink():
                    path.unlink()
                if problem is not None and not overwrite:
                    problems.append(problem)
                elif problem is not None:
                    remove(path)
                    record_of(path).unlink(missing_ok=True)
        return problems

    def write(self, stage: Stage) -> None:
        """Writes a stage's settings down, before it begins."""
        write_json(record_of(stage.folder), self.settings(stage))

    def _before(self, stage: Stage) -> str:
        former = self._stages.get((stage.seed, stage.tasks[:-1]))
        return self.base_key if former is None else self.handed_over(former)

    def _problem(self, stage: Stage) -> str | None:
        path = record_of(stage.folder)
        if not path.is_file():
            found = status(stage.folder) if not stage.folder.is_symlink() else None
            return None if found is None else f"{stage.folder} holds a run that is no part of this sequence"
        before, now = json.loads(path.read_text(encoding="utf-8")), self.settings(stage)
        if before == json.loads(json.dumps(now)):
            return None
        changed = changes(before, now)
        told = [one for one in changed if not one.startswith("before ")] or ["what stands before it is another"]
        more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        return f"{stage.folder} was begun with other settings: {', '.join(told[:SHOWN])}{more}"


def changes(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two pieces of plain data differ: "train.steps was 2, is 3"."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for name in dict.fromkeys([*before, *now]):
            inner = f"{path}.{name}" if path else str(name)
            found += changes(before.get(name), now.get(name), inner)
        return found
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        return [line for at, (one, other) in enumerate(zip(before, now, strict=True)) for line in changes(one, other, f"{path}.{at}")]
    if before == now:
        return []
    if path.startswith("files."):
        return [f"the content of {path.removeprefix('files.').rpartition('.')[0] or path.removeprefix('files.')}"]
    return [f"{path} was {_short(before)}, is {_short(now)}"]


def record_of(folder: Path) -> Path:
    """Where the settings of the run in a folder are kept."""
    return folder.with_name(f"{folder.name}.json")


def link(line: Line, stage: Stage) -> None:
    """Lets a line's folder show a stage that it shares with an earlier line."""
    path = line.link(stage)
    if path == stage.folder:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.symlink_to(os.path.relpath(stage.folder, path.parent), target_is_directory=True)


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished run in a folder names.

    Raises:
        FileNotFoundError: It is gone.
    """
    named = folder / _record(folder)["checkpoint"]
    if not (named / "config.json").is_file():
        raise FileNotFoundError(
            f"{named} is gone, though the run in {folder} is finished; bring it back, or remove {folder} to train again"
        )
    return named


def seconds_of(folder: Path) -> float:
    """How long the run in a folder took."""
    return float(_record(folder)["seconds"])


def suite_key(suite: Suite) -> str:
    """Key of all questions of a suite; pictures count by their paths."""
    config = SuiteConfig.model_validate(yaml.safe_load(suite.path.read_text(encoding="utf-8")))
    files = fingerprint([suite.path.parent / task.path for task in config.tasks], cache_folder())
    return key_of(config.model_dump(mode="json"), [one.sha256 for one in files])


def check_data(stages: Sequence[Stage], progress: bool) -> None:
    """Reads the data of every stage, so that whatever is wrong with any is known before the first begins; it is indexed once, for all.

    Raises:
        ValueError: A source has nothing left, too many bad records, or the shares cannot be met; the message names the task.
    """
    seen = set()
    for stage in stages:
        recipe = stage.recipe
        assert recipe.model is not None
        assert recipe.data is not None
        wanted = recipe.data.model_dump_json() + recipe.train.model_dump_json(include={"steps", "epochs", "batch_size"})
        if wanted in seen:
            continue
        seen.add(wanted)
        processor = load_processor(recipe.model)
        try:
            sources = load_sources(recipe.data, tokenizer_of(processor), pictures_of(processor), seed=stage.seed, progress=progress)
            check_shares(sources, recipe.data.max_bad_share)
            plan_order(sources, recipe, progress=False)
        except ValueError as error:
            raise ValueError(f"sequence task {stage.task}: {error}") from error


def first_alone(folder: Path, work: Callable[[], Any]) -> None:
    """Lets the first process do something while the others wait, however long; a collective would give up after half an hour.

    The others wait for a file to appear, under a name never used before: a network disk may show one late, but none that is not there.

    Args:
        folder: On a disk that all processes see.
        work: What is done.

    Raises:
        RuntimeError: In the others, where the work failed; the first raises the failure itself.
    """
    if distributed.world_size() == 1:
        work()
        return
    mark = folder / f"{DONE}{distributed.everywhere(uuid4().hex)[0]}"
    if distributed.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        _done_by_first(work, mark)
    else:
        _done_elsewhere(mark)
    distributed.wait()
    if distributed.is_first():
        mark.unlink()


def _done_by_first(work: Callable[[], Any], mark: Path) -> None:
    for left in mark.parent.glob(f"{DONE}*"):  # of a call that failed
        left.unlink(missing_ok=True)
    try:
        work()
    except BaseException as error:
        write_text(mark, f"{type(error).__name__}: {error}")
        raise
    write_text(mark, "")


def _done_elsewhere(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.2)
    failure = mark.read_text(encoding="utf-8")
    if failure:
        raise RuntimeError(f"the first process failed while the others waited for it: {failure}")


def _real(path: Path) -> str | None:
    """A folder where a link is to be."""
    return f"{path} holds a run that this sequence takes from another order" if path.exists() and not path.is_symlink() else None


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
