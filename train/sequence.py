"""Skill after skill: every run begins with the model that the one before hands over.

What is finished stays finished: each stage's settings are written down beside its run folder before it begins, its evaluation holds a key
of all that it depends on.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.fingerprint import fingerprint, key_of
from data.index import cache_folder
from model.interpolate import check_base, interpolate
from model.source import folder_of
from train import distributed, preempt
from train.config import Recipe
from train.evaluate.evaluation import FILE_NAME, load, save
from train.evaluate.tasks import Suite, load_suite
from train.rows import tell
from train.run import status, train
from train.sequence_matrix import groups_of, matrix, scores_of
from train.sequence_plan import Line, Stage, check_suite, plan_lines, ready, stages_of
from train.sequence_record import Kept, check_data, first_alone, last_checkpoint, link, seconds_of, suite_key

MATRIX, BASE, REPORT = "matrix.json", "base", "report"

Evaluate = Callable[[Path, Suite], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SequenceResult:
    """What a sequence left.

    Attributes:
        folder: The output folder.
        models: For each order and seed the model behind its last task.
        matrix: The numbers; None without a suite.
        page: The report; None without a suite.
        seconds: Wall-clock time of this call.
    """

    folder: Path
    models: dict[tuple[int, int], Path]
    matrix: Path | None
    page: Path | None
    seconds: float


@preempt.listening()
def run_sequence(
    recipe: Recipe, *, progress: bool = True, overwrite: bool = False, evaluate: Evaluate | None = None, where: str = "recipe"
) -> SequenceResult:
    """Runs every task of every order with every seed; goes on where an earlier call was stopped, at the task and the step.

    Args:
        recipe: With the sections model, sequence, output; from `train.config.load_recipe`.
        progress: Show which task is at work, how long the rest may take.
        overwrite: Do again what was finished with other settings, and all behind it; else that is an error.
        evaluate: Gives the evaluation of a model folder on the suite, as `train.evaluate.evaluation.evaluate` does; None: that one.
        where: As messages name the recipe.

    Raises:
        FileNotFoundError: A file of any task does not exist; found before the first task begins.
        ValueError: The recipe, a task's data or the suite is wrong, found as early; or finished stages have other settings.
        train.preempt.Stopped: It was asked to stop by SIGTERM or SIGUSR1, which an evaluation answers at its end; the same call goes on.
    """
    start = time.perf_counter()
    lines = plan_lines(recipe, where)
    sequence = recipe.sequence
    assert sequence is not None
    suite = load_suite(sequence.suite) if sequence.suite is not None else None
    if suite is not None:
        check_suite(sequence, [task.name for task in suite.tasks if task.group == "target"], where)
    if sequence.merge is not None:
        assert recipe.model is not None
        check_base(folder_of(str(recipe.model.base)))
    distributed.start()
    check_data(stages_of(lines), progress)
    work = Work(recipe=recipe, lines=lines, suite=suite, evaluate=evaluate or evaluator(recipe, progress), progress=progress)
    work.check_what_is_there(overwrite)
    work.evaluate_base()
    models = {(line.order, line.seed): work.run_line(line) for line in lines}
    page = work.report() if suite is not None else None
    return SequenceResult(
        folder=work.folder,
        models=models,
        matrix=work.folder / MATRIX if suite is not None else None,
        page=page,
        seconds=time.perf_counter() - start,
    )


def evaluator(recipe: Recipe, progress: bool) -> Evaluate:
    """Evaluates as `perennial evaluate` does: in float32, on a GPU where there is one."""
    assert recipe.model is not None
    attention = recipe.model.attention

    def evaluate_folder(folder: Path, suite: Suite) -> dict[str, Any]:
        import torch

        from model.build import load_pair
        from train.evaluate.evaluation import evaluate

        model, processor = load_pair(folder, attention=attention)
        if torch.cuda.is_available():
            model = model.to("cuda")
        return evaluate(model, processor, suite, progress=progress)

    return evaluate_folder


def stop_if_asked(before: str) -> None:
    """Stops all processes where any was asked to; a collective.

    Args:
        before: What is not begun, as the message names it.
    """
    if any(distributed.everywhere(preempt.asked())):
        raise preempt.Stopped(f"stopped on request before {before}; run the same command to go on")


@dataclass(kw_only=True)
class Work:
    """A sequence at work.

    Attributes:
        recipe: The recipe.
        lines: Its plan.
        suite: What is asked; None: nothing.
        evaluate: Gives the evaluation of a model folder.
        progress: Whether to tell.
        folder: The output folder.
        base: Folder of the model that all begin with.
        kept: Settings of each stage, in memory and on disk.
        done: Seconds of each stage that is finished.
    """

    recipe: Recipe
    lines: Sequence[Line]
    suite: Suite | None
    evaluate: Evaluate
    progress: bool
    folder: Path = field(init=False)
    base: Path = field(init=False)
    kept: Kept = field(init=False)
    done: dict[Path, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        assert self.recipe.model is not None
        assert self.recipe.sequence is not None
        assert self.recipe.model.base is not None
        self.folder = Path(str(self.recipe.output))
        self.base = folder_of(self.recipe.model.base)
        files = [self.base / "config.json", *sorted(self.base.glob("*.safetensors"))]
        base_key = (
            key_of([[Path(one.name).name, one.sha256] for one in fingerprint(files, cache_folder())]) if distributed.is_first() else ""
        )
        self.kept = Kept(stages_of(self.lines), distributed.everywhere(base_key)[0], self.recipe.sequence.merge)

    def check_what_is_there(self, overwrite: bool) -> None:
        """Fails where a stage was finished with other settings; with `overwrite`, removes it. Every process learns of it."""
        problems = self.kept.check(self.lines, overwrite) if distributed.is_first() else []
        problems = distributed.everywhere(problems)[0]
        if problems:
            more = f" (and {len(problems) - 1} more stages)" if len(problems) > 1 else ""
            raise ValueError(
                f"{problems[0]}{more}. Give the old settings, another output, or --overwrite to do again what was done with others"
            )

    def evaluate_base(self) -> None:
        """The scores before the first task."""
        self._evaluated(self.base, self.folder / BASE, self.kept.base_key)

    def run_line(self, line: Line) -> Path:
        """All stages of one order with one seed; gives the model behind the last."""
        before = self.base
        for stage in line.stages:
            stop_if_asked(f"{line.name}, task {stage.task}")
            before = self.run_stage(stage, before, line)
            if distributed.is_first():
                link(line, stage)
        return before

    def run_stage(self, stage: Stage, before: Path, line: Line) -> Path:
        """Trains, merges, evaluates, unless that is done; gives the model that is handed over."""
        if not distributed.everywhere(distributed.is_first() and status(stage.folder) == "done")[0]:
            tell(self._where(stage, line), self.progress)
            if distributed.is_first():
                self.kept.write(stage)
            train(ready(stage, before, self.base), progress=self.progress)
            gc.collect()  # the engine's cycles hold the weights
        model = self._merged(stage, before)
        stop_if_asked(f"the evaluation of {line.name}, task {stage.task}")
        evaluation = self._evaluated(model, self._evaluation_of(stage), self.kept.handed_over(stage))
        self.done[stage.folder] = seconds_of(stage.folder) + (evaluation or {}).get("seconds", 0.0)
        self._write_matrix()
        return model

    def report(self) -> Path:
        """Draws the matrix, writes the page; gives its path."""
        from train.sequence_report import render

        page = self.folder / REPORT / "report.html"
        first_alone(self.folder, lambda: render(self._matrix(), page.parent))
        return page

    def _where(self, stage: Stage, line: Line) -> str:
        stages = stages_of(self.lines)
        text = f"{line.name}: task {len(stage.tasks)} of {len(line.stages)}, {stage.task} (run {len(self.done) + 1} of {len(stages)})"
        if self.done:
            left = sum(self.done.values()) / len(self.done) * (len(stages) - len(self.done))
            text += f", about {left / 60:.0f} min left" if left >= 60 else f", about {left:.0f} s left"
        return text

    def _merged(self, stage: Stage, before: Path) -> Path:
        checkpoint, merge = last_checkpoint(stage.folder), self.kept.merge
        if merge is None:
            return checkpoint
        target = stage.folder / f"merged-{merge.alpha:g}"
        if not distributed.everywhere(distributed.is_first() and target.exists())[0]:
            first_alone(self.folder, lambda: interpolate(before, checkpoint, merge.alpha, target))
        return target

    def _evaluation_of(self, stage: Stage) -> Path:
        return stage.folder / "evaluations" / (self.suite.name if self.suite is not None else "none")

    def _evaluated(self, model: Path, folder: Path, key: str) -> dict[str, Any] | None:
        """The evaluation of a model, made where there is none, or one of another model or suite; by the first process alone."""
        suite = self.suite
        if suite is None:
            return None
        wanted = key_of(key, suite_key(suite))

        def make() -> None:
            if not (folder / FILE_NAME).is_file() or load(folder).get("key") != wanted:
                tell(f"evaluating {model}", self.progress)
                save(self.evaluate(model, suite) | {"model": str(model), "key": wanted}, folder)
                gc.collect()

        first_alone(self.folder, make)
        return load(folder)

    def _write_matrix(self) -> None:
        if self.suite is not None and distributed.is_first():
            write_json(self.folder / MATRIX, self._matrix())

    def _matrix(self) -> dict[str, Any]:
        assert self.suite is not None
        assert self.recipe.sequence is not None
        base = load(self.folder / BASE)
        sequences = [
            {
                "order": line.order,
                "seed": line.seed,
                "tasks": list(line.stages[-1].tasks),
                "stages": [self._row(stage) for stage in line.stages if stage.folder in self.done],
            }
            for line in self.lines
        ]
        settings = self.recipe.sequence.model_dump(mode="json", include={"seeds", "merge", "replay"})
        before = {"model": str(self.base), **self._scored(base, self.folder / BASE)}
        return {"suite": self.suite.name, "settings": settings, **matrix(before, sequences, groups_of(base))}

    def _row(self, stage: Stage) -> dict[str, Any]:
        """A stage as the matrix holds it; paths are relative to the output folder."""
        folder = self._evaluation_of(stage)
        return {
            "task": stage.task,
            "run": str(stage.folder.relative_to(self.folder)),
            **self._scored(load(folder), folder),
            "seconds": self.done[stage.folder],
        }

    def _scored(self, evaluation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {
            "evaluation": str((folder / FILE_NAME).relative_to(self.folder)),
            "scores": scores_of(evaluation),
            "number_token_probability": evaluation.get("number_token_probability"),
        }
