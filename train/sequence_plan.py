"""Every training run of a sequence of skills, known before the first one begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from data.config import DataConfig, SourceConfig
from train.config import Recipe, make_recipe
from train.sequence_config import SequenceConfig, TaskConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One task, behind others.

    Attributes:
        tasks: Names of the tasks up to this one, in order.
        seed: Of its run.
        recipe: Of its run; `model.base` is the sequence's, to be replaced by what the former task hands over.
    """

    tasks: tuple[str, ...]
    seed: int
    recipe: Recipe

    @property
    def task(self) -> str:
        """The task that it learns."""
        return self.tasks[-1]

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(str(self.recipe.output))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One order with one seed.

    Attributes:
        order: Number of the order, from 1.
        seed: The seed.
        folder: Holds its stages, or links to those that it shares.
        stages: In order. An order that begins like an earlier one of the same seed shares these stages: they are the same objects.
    """

    order: int
    seed: int
    folder: Path
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"order {self.order}, seed {self.seed}"

    def link(self, stage: Stage) -> Path:
        """Where a stage is found in this line's folder."""
        return self.folder / stage.folder.name


def plan_lines(recipe: Recipe, where: str = "recipe", *, check_files: bool = True) -> tuple[Line, ...]:
    """Plans every run: for each seed, all orders.

    Args:
        recipe: With the sections model, sequence, output.
        where: As messages name the recipe.
        check_files: Whether data files and model folders must exist.

    Raises:
        FileNotFoundError: A data file of any task, or the model, does not exist.
        ValueError: A task's `train` fields are wrong, or something has no effect in a sequence; the message names the task.
    """
    recipe.need("model", "sequence", "output")
    sequence = recipe.sequence
    assert sequence is not None
    _check_whole(recipe, where)
    trees = sequence.replay.trees
    if check_files and trees is not None and not Path(trees.path).exists():
        raise FileNotFoundError(
            f"{where}: sequence.replay.trees.path: {trees.path} does not exist; grow one with: perennial generate RECIPE.yaml"
        )
    for number, task in enumerate(sequence.tasks):
        _stage_recipe(recipe, task, task.data, f"{where}: sequence.tasks.{number} ({task.name})", check_files=check_files)
    known: dict[tuple[int, tuple[str, ...]], Stage] = {}
    lines = []
    for seed in sequence.seeds:
        for number, order in enumerate(sequence.all_orders, start=1):
            folder = Path(str(recipe.output)) / f"order-{number}-seed-{seed}"
            stages = []
            for length in range(1, len(order) + 1):
                tasks = order[:length]
                if (seed, tasks) not in known:
                    known[seed, tasks] = _stage(recipe, tasks, seed, folder)
                stages.append(known[seed, tasks])
            lines.append(Line(order=number, seed=seed, folder=folder, stages=tuple(stages)))
    return tuple(lines)


def stages_of(lines: Sequence[Line]) -> list[Stage]:
    """Every stage once, in the order in which they are run."""
    return list({stage.folder: stage for line in lines for stage in line.stages}.values())


def data_of(sequence: SequenceConfig, tasks: Sequence[str]) -> DataConfig:
    """What the last of some tasks is trained on.

    First the memory, then the task's own sources, then the trees, which take their share from all others. The memory is part of what the
    former task was trained on, the same at every later task: fewer records of a source are part of more (`data.dataset.select`), where both
    tasks take the same samples for too long. A remembered source has weight 1: its records are seen as often as those of an own source with
    weight 1.

    Args:
        sequence: The section.
        tasks: Names of the tasks up to this one.

    Raises:
        ValueError: Fixed shares of the task's own sources leave nothing for the memory, or a former task had samples of another length.
    """
    by_name = {task.name: task for task in sequence.tasks}
    own, replay = by_name[tasks[-1]].data, sequence.replay
    remembered = [one for name in tasks[:-1] for one in _memory(by_name[name], replay.memory or 0)]
    sources, trees = list(own.sources), []
    if remembered:
        _check_lengths([by_name[name] for name in tasks])
    if remembered and all(one.share is not None for one in own.sources):
        raise ValueError(
            f"sequence.replay.memory: every source of task {tasks[-1]!r} has a share, so that nothing is left for remembered records; "
            "leave one of its sources without"
        )
    if replay.trees is not None:
        left = 1 - replay.trees.share
        sources = [one if one.share is None else one.model_copy(update={"share": left * one.share}) for one in sources]
        trees = [SourceConfig(path=replay.trees.path, format=replay.trees.format, share=replay.trees.share, loss_on="all")]
    urls = own.allow_urls or (bool(remembered) and any(by_name[name].data.allow_urls for name in tasks[:-1]))
    return own.model_copy(update={"sources": (*remembered, *sources, *trees), "allow_urls": urls})


def ready(stage: Stage, before: Path, base: Path) -> Recipe:
    """A stage's recipe, with the models that were not known when it was planned.

    KL to the base means the sequence's base, LwF the model before this task: that is what a run without a named teacher finds.

    Args:
        stage: The stage.
        before: What the former task hands over; the base for the first.
        base: The sequence's base.
    """
    recipe = stage.recipe
    assert recipe.model is not None
    losses = tuple(
        term.model_copy(update={"teacher": str(base)}) if term.kind == "kl_to_base" and term.teacher is None and before != base else term
        for term in recipe.train.losses
    )
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"base": str(before)}),
            "train": recipe.train.model_copy(update={"losses": losses}),
        }
    )


def check_suite(sequence: SequenceConfig, targets: Sequence[str], where: str) -> None:
    """Fails unless each task has a target task of its name in the suite.

    Args:
        sequence: The section.
        targets: Names of the suite's tasks in the group target.
        where: As messages name the recipe.
    """
    for number, task in enumerate(sequence.tasks):
        if task.name not in targets:
            near = get_close_matches(task.name, targets, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise ValueError(
                f"{where}: sequence.tasks.{number}.name: {task.name!r} is no task of the group target in {sequence.suite}{hint} "
                f"They are: {', '.join(targets) or 'none'}. Name both alike: the suite's task measures whether the skill was learned"
            )


def _check_whole(recipe: Recipe, where: str) -> None:
    assert recipe.model is not None
    if recipe.data is not None:
        raise ValueError(f"{where}: data: has no effect in a sequence, whose tasks have their own; move it to sequence.tasks")
    if recipe.model.base is None:
        raise ValueError(
            f"{where}: model.base: missing; a sequence begins with a saved model. Join vision and language first: perennial assemble"
        )
    if recipe.model.method == "siamese":
        raise ValueError(f"{where}: model.method: a sequence hands plain models on; leave siamese out, distil one at the end")
    if recipe.train.resume == "always":
        raise ValueError(f"{where}: train.resume: always fits a single run; a sequence goes on by itself with if_possible")


def _stage(recipe: Recipe, tasks: tuple[str, ...], seed: int, folder: Path) -> Stage:
    assert recipe.sequence is not None
    task = next(one for one in recipe.sequence.tasks if one.name == tasks[-1])
    found = _stage_recipe(recipe, task, data_of(recipe.sequence, tasks), f"sequence task {task.name}", check_files=False)
    train = found.train.model_copy(update={"seed": seed})
    output = str(folder / f"{len(tasks):02d}-{task.name}")
    return Stage(tasks=tasks, seed=seed, recipe=found.model_copy(update={"train": train, "output": output}))


def _stage_recipe(recipe: Recipe, task: TaskConfig, data: DataConfig, where: str, *, check_files: bool) -> Recipe:
    assert recipe.model is not None
    values: dict[str, Any] = {
        "model": recipe.model.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json") | task.train,
    }
    return make_recipe(values, where, check_files=check_files)


def _memory(task: TaskConfig, records: int) -> list[SourceConfig]:
    """The sources of a former task, with so many records in all, evenly from each; none gives more than the task had of it."""
    count = len(task.data.sources)
    kept = [records // count + (number < records % count) for number in range(count)]
    return [
        source.model_copy(update={"max_records": min(most, source.max_records or most), "weight": 1.0, "share": None, "max_epochs": None})
        for source, most in zip(task.data.sources, kept, strict=True)
        if most
    ]


def _check_lengths(tasks: Sequence[TaskConfig]) -> None:
    own = tasks[-1]
    for task in tasks[:-1]:
        if (task.data.longest, task.data.over_long) != (own.data.longest, own.data.over_long):
            raise ValueError(
                f"sequence.replay.memory: samples of task {own.name!r} have up to {own.data.longest} tokens, longer ones: "
                f"{own.data.over_long}; of {task.name!r} up to {task.data.longest}, {task.data.over_long}. What is remembered would not be "
                "what was learned; give data.max_length and data.over_long alike to all tasks"
            )
