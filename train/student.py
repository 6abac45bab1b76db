"""A siamese model becomes a plain one that loads anywhere: trained, then set beside the siamese one.

What is finished stays finished: the student's settings are written down before it is trained, each evaluation holds a key of all that it
depends on.
"""

import gc
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data.atomic import write_json, write_text
from data.fingerprint import key_of
from data.index import cache_folder, states_of
from data.position import EFFECTLESS as EFFECTLESS_DATA
from train import distributed, preempt
from train.config import Recipe
from train.evaluate.evaluation import FILE_NAME, load, save
from train.evaluate.tasks import Suite
from train.folders import only_writer, remove
from train.resume import EFFECTLESS
from train.rows import tell
from train.run import status, train
from train.sequence import stop_if_asked
from train.sequence_record import SHOWN, changes, first_alone, last_checkpoint, suite_key
from train.student_cost import BASE, DISTILLED, LABELS, SIAMESE, TWIN, cost, markdown
from train.sweep import model_key

SETTINGS, RESULT, TABLE = "settings.json", "cost.json", "cost.md"

Alone = Literal["base", "tuned"] | None
Ask = Callable[[Path, Alone, Suite], dict[str, Any]]
"""A model folder, who of a siamese model answers (None: it as a whole), a suite -> an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is asked for.

    Attributes:
        siamese: The teacher's folder.
        recipe: The student's, from `train.student_recipe.plan`; its run folder lies in the output folder.
        suite: What both are asked; None: nothing.
        target: Task that was tuned for; None: the mean over all target tasks.
        limit: At most so many questions of each task; None: all.
    """

    siamese: Path
    recipe: Recipe
    suite: Suite | None = None
    target: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        tasks = [task.name for task in self.suite.tasks] if self.suite is not None else []
        if self.suite is not None and self.target is not None and self.target not in tasks:
            raise ValueError(f"target: {self.suite.path} has no task {self.target!r}; its tasks: {', '.join(tasks)}")

    @property
    def run(self) -> Path:
        """The student's run folder."""
        return Path(str(self.recipe.output))

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.run.parent


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What distilling left.

    Attributes:
        checkpoint: Folder of the plain model: whole, its adapter alone in `adapter/`.
        cost: What cost.json holds, see `train.student_cost.cost`; None without a suite.
    """

    checkpoint: Path
    cost: dict[str, Any] | None


@preempt.listening()
def distil(asked: Distillation, *, progress: bool = True, overwrite: bool = False, ask: Ask | None = None) -> Distilled:
    """Trains the student, evaluates all four models; what an earlier call finished is not done again, the rest goes on.

    Args:
        asked: What is asked for.
        progress: Whether to show what is at work.
        overwrite: Train again what was trained with other settings; else that is an error.
        ask: Gives an evaluation; None: as `perennial evaluate` makes it.

    Raises:
        FileNotFoundError: The base is not where it was.
        ValueError: The output holds a student with other settings, or the recipe does not fit the base.
        train.preempt.Stopped: It was asked to stop by SIGTERM or SIGUSR1, which an evaluation answers at its end; the same call goes on.
    """
    distributed.start()
    with only_writer(asked.folder):
        _check_what_is_there(asked, overwrite)
        if not distributed.everywhere(distributed.is_first() and status(asked.run) == "done")[0]:
            train(asked.recipe, progress=progress)
            gc.collect()  # the engine's cycles hold the weights
        checkpoint = last_checkpoint(asked.run)
        if asked.suite is None:
            return Distilled(checkpoint=checkpoint, cost=None)
        return Distilled(checkpoint=checkpoint, cost=_cost(asked, checkpoint, ask or asker(asked.recipe, progress), progress))


def asker(recipe: Recipe, progress: bool) -> Ask:
    """Evaluates in float32, on a GPU where there is one."""
    assert recipe.model is not None
    attention = recipe.model.attention

    def evaluate_folder(folder: Path, alone: Alone, suite: Suite) -> dict[str, Any]:
        import torch

        from model.build import load_pair
        from model.siamese import of
        from train.evaluate.evaluation import evaluate

        model, processor = load_pair(folder, attention=attention)
        if torch.cuda.is_available():
            model = model.to("cuda")
        siamese = of(model)
        with siamese.alone(alone) if siamese is not None and alone is not None else nullcontext():
            return evaluate(model, processor, suite, progress=progress)

    return evaluate_folder


def settings_of(asked: Distillation) -> dict[str, Any]:
    """What decides how the student is trained."""
    recipe = asked.recipe
    assert recipe.data is not None
    hashes = {one.path: [state.sha256 for state in states_of(one, cache_folder(recipe.data.cache))] for one in recipe.data.sources}
    return {
        **recipe.model_dump(mode="json", include={"model"}),
        "data": recipe.data.model_dump(mode="json", exclude=set(EFFECTLESS_DATA)),
        # the dtype in which weights are saved changes no step, but what is evaluated
        "train": recipe.train.model_dump(mode="json", exclude=EFFECTLESS["train"] - {"save_dtype"}),
        "files": hashes,
        "siamese": model_key(asked.siamese),
    }


def _check_what_is_there(asked: Distillation, overwrite: bool) -> None:
    """Writes the student's settings down; fails where one with others is there, or removes that. Every process learns of it."""
    problems = distributed.everywhere(_problem(asked, overwrite) if distributed.is_first() else None)
    if problems[0] is not None:
        raise ValueError(
            f"{problems[0]}. Give the old settings, another output, or --overwrite to train the student again from the beginning"
        )


def _problem(asked: Distillation, overwrite: bool) -> str | None:
    place, now = asked.folder / SETTINGS, json.loads(json.dumps(settings_of(asked)))
    before = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    if before != now and status(asked.run) is not None:
        if not overwrite:
            return f"{asked.run} holds a run that distilled nothing here" if before is None else _told(asked.run, before, now)
        remove(asked.run)
    write_json(place, now)
    return None


def _told(run: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    found = ["the siamese model is another" if one.startswith("siamese ") else one for one in changes(before, now)]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{run} was begun with other settings: {', '.join(found[:SHOWN])}{more}"


def _cost(asked: Distillation, checkpoint: Path, ask: Ask, progress: bool) -> dict[str, Any]:
    """Evaluates by the first process alone, writes cost.json, cost.md."""
    assert asked.suite is not None
    who: dict[str, tuple[Path, Alone]] = {
        BASE: (asked.siamese, "base"),
        SIAMESE: (asked.siamese, None),
        TWIN: (asked.siamese, "tuned"),
        DISTILLED: (checkpoint, None),
    }
    for name, one in who.items():
        stop_if_asked(f"the evaluation of: {LABELS[name]}")
        first_alone(asked.folder, partial(_evaluate, asked, name, one, ask, progress))
    found = cost({name: load(_place(asked, name)) for name in who}, asked.target) | {
        "siamese": str(asked.siamese),
        "distilled": str(checkpoint),
        "limit": asked.limit,
    }
    if distributed.is_first():
        write_json(asked.folder / RESULT, found, indent=1)
        write_text(asked.folder / TABLE, f"{markdown(found)}\n")
    return found


def _evaluate(asked: Distillation, name: str, who: tuple[Path, Alone], ask: Ask, progress: bool) -> None:
    """One evaluation, unless it is there."""
    assert asked.suite is not None
    place, key = _place(asked, name), key_of(model_key(who[0]), who[1], suite_key(asked.suite), asked.limit)
    if (place / FILE_NAME).is_file() and load(place).get("key") == key:
        return
    tell(f"evaluating: {LABELS[name]}", progress)
    save(ask(*who, asked.suite.limited(asked.limit)) | {"model": str(who[0]), "alone": who[1], "key": key}, place)
    gc.collect()


def _place(asked: Distillation, name: str) -> Path:
    assert asked.suite is not None
    return asked.folder / "evaluations" / asked.suite.name / name
