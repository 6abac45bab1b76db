"""One training run, from a recipe to a checkpoint, in ten named steps."""

import json
import shutil
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from data.atomic import write_json, write_text
from data.collate import Collator
from data.dataset import Samples, check_shares, load_sources
from data.pictures import pictures_of
from data.position import Reading
from data.validate import QUARANTINE
from model import build, siamese, tuning
from model.attention import kernel_of
from model.identity import fingerprint
from model.manifest import Manifest
from model.processor import tokenizer_of
from train import checkpoint, distributed, preempt, resume
from train.adalora import companions
from train.blank import text_only_batches
from train.callbacks import CheckManifest, SaveEvery
from train.config import Recipe
from train.distill import teachers
from train.folders import PREFIX, numbered, only_writer, remove, step_of
from train.head import LossHead
from train.metrics import Metrics
from train.objective import Objective
from train.optim import with_rates
from train.precision import resolved
from train.record import Record, describe_data, describe_training
from train.rows import deal_out, layout_of_rows, plan_order, settle_attention, tell
from train.tally import names_of
from train.trackers import check_installed
from train.trainer import MixtureTrainer, arguments
from train.watch import watchers


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where a run left its results.

    Attributes:
        folder: The run folder.
        checkpoint: The last checkpoint in it, a complete model folder.
        seconds: Wall-clock time of the whole run.
    """

    folder: Path
    checkpoint: Path
    seconds: float


@preempt.listening()
def train(recipe: Recipe, *, progress: bool = True, overwrite: bool = True) -> RunResult:
    """Trains as a recipe says; may be called many times in one process.

    Args:
        recipe: Checked by `train.config.load_recipe` or `make_recipe`.
        progress: Show a bar and what was read.
        overwrite: Replace a finished run in the output folder, else refuse to; an unfinished one is continued as `train.resume` says.

    Raises:
        ValueError: The recipe's data or model do not fit together, or not to the run that is to be continued.
        FloatingPointError: The loss became infinite or not a number.
        train.preempt.Stopped: It was asked to stop by SIGTERM or SIGUSR1, in any process; the same call goes on.
    """
    distributed.check_launcher()
    with only_writer(Path(str(recipe.output))):
        return take_ten_steps(recipe, progress, overwrite)


def take_ten_steps(recipe: Recipe, progress: bool, overwrite: bool) -> RunResult:
    """The run itself, once nobody else writes into its folder."""
    start = time.perf_counter()
    folder = open_run_folder(recipe, overwrite)
    join_processes(recipe)
    model, processor = load_model(recipe)
    base = fingerprint(model)
    sources = read_data(recipe, processor, folder, progress)
    reading = plan_order(settle_attention(model, sources, recipe, progress), recipe, progress)
    manifest, tuner = choose_what_trains(model, recipe, reading.plan.steps)
    run = resume.Run(recipe=recipe, manifest=manifest, reading=reading, base=base, kernel=kernel_of(model))
    saved = resume.find(run, progress)
    record = write_down_what_runs(recipe, folder, manifest, reading, saved)
    with (
        record.ending(),
        distributed.own_state(),
        closing(build_trainer(model, processor, run, tuner, progress)) as trainer,
    ):
        save_on_the_way(trainer, processor, run)
        take_all_steps(trainer, saved)
        final = save_checkpoint(trainer, processor, run, reading.plan.steps)
        record.update(loss=loss_summary(trainer), checkpoint=str(final.relative_to(folder)))
    resume.forget(folder)
    return RunResult(folder=folder, checkpoint=final, seconds=time.perf_counter() - start)


def open_run_folder(recipe: Recipe, overwrite: bool) -> Path:
    """Step 1: the run folder; empty, unless an unfinished run in it is to be continued. A finished one is kept unless `overwrite`."""
    assert recipe.output is not None
    folder = Path(recipe.output)
    check_installed(recipe.train.trackers)
    if not distributed.is_first():
        return folder
    ended = status(folder)
    if ended == "done" and not overwrite:
        raise ValueError(f"output: {folder} holds a finished run; give another output, or --overwrite to replace it")
    if folder.exists() and ended is None and {path.name for path in folder.iterdir()} - {QUARANTINE}:
        raise ValueError(f"output: {folder} is not empty and holds no run; give another output")
    if not resume.is_wanted(folder, recipe.train.resume, ended):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*/.{PREFIX}*"):  # by a process that was killed while it wrote or removed a folder
        shutil.rmtree(left)
    return folder


def join_processes(recipe: Recipe) -> None:
    """Step 2: the process group, the precision of products; from here on all processes see the same run folder."""
    distributed.start()
    distributed.wait()
    torch.set_float32_matmul_precision(recipe.train.matmul_precision)


def load_model(recipe: Recipe) -> tuple[Any, Any]:
    """Step 3: the model with its processor."""
    assert recipe.model is not None
    return build.load(recipe.model, recipe.train.seed)


def read_data(recipe: Recipe, processor: Any, folder: Path, progress: bool) -> list[Samples]:
    """Step 4: every source, indexed; what is left out is told, listed in quarantine.jsonl, refused where it is too much."""
    assert recipe.data is not None
    sources = load_sources(recipe.data, tokenizer_of(processor), pictures_of(processor), seed=recipe.train.seed, progress=progress)
    problems = [problem for source in sources for problem in source.problems]
    if distributed.is_first():
        (folder / QUARANTINE).unlink(missing_ok=True)
    if distributed.is_first() and problems:
        write_text(folder / QUARANTINE, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in problems))
    for source in sources:
        for kind, count in source.kinds.items():
            first = next(one.message for one in source.problems if one.kind == kind)
            tell(f"{source.config.path}: {count} records left out: {kind} (first: {first})", progress)
    check_shares(sources, recipe.data.max_bad_share)
    return sources


def choose_what_trains(model: Any, recipe: Recipe, steps: int) -> tuple[Manifest, Any]:
    """Step 6: the preset's parameters train, or adapters on them; all others are frozen. The second is PEFT's tuner, or None."""
    assert recipe.model is not None
    manifest, tuner = tuning.choose_what_trains(model, recipe.model, steps=steps, seed=recipe.train.seed)
    return with_rates(model, manifest, recipe.train), tuner


def write_down_what_runs(recipe: Recipe, folder: Path, manifest: Manifest, reading: Reading, saved: Path | None) -> Record:
    """Step 7: config.yaml, trainable.json, run.json."""
    record = Record(
        folder / "run.json" if distributed.is_first() else None,
        stage=recipe.train.stage,
        steps=reading.plan.steps,
        seed=recipe.train.seed,
        processes=distributed.world_size(),
        precision=resolved(recipe.train.precision),
        resumed_from=step_of(saved) if saved is not None else None,
        trainable=describe_training(manifest),
        data=describe_data(reading),
    )
    if distributed.is_first():
        write_text(folder / "config.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        write_json(folder / "trainable.json", manifest.to_dict())
    record.update()
    return record


def build_trainer(model: Any, processor: Any, run: resume.Run, tuner: Any, progress: bool) -> MixtureTrainer:
    """Step 8: the Trainer under DeepSpeed."""
    recipe, manifest, reading = run.recipe, run.manifest, run.reading
    config, dataset = recipe.train, deal_out(recipe, reading)
    zero = distributed.zero_config(config.zero, manifest.trainable_parameters)
    objective = what_is_minimised(model, recipe, reading)  # first: transformers would partition a teacher once it knows of ZeRO-3
    args = arguments(
        config,
        steps=reading.plan.steps,
        processes=reading.processes,
        deepspeed=zero,
        folder=str(run.folder),
        loader_workers=reading.config.loader_workers,
    )
    collator = Collator(tokenizer_of(processor), pictures_of(processor), layout_of_rows(recipe, kernel_of(model)))
    trainer = MixtureTrainer(model, manifest, args, dataset, collator, objective)
    callbacks = [*watchers(trainer, recipe, progress), CheckManifest(model, manifest, verify_frozen=config.verify_frozen)]
    for callback in [*callbacks, *companions(tuner, trainer)]:
        trainer.add_callback(callback)
    return trainer


def what_is_minimised(model: Any, recipe: Recipe, reading: Reading) -> Objective:
    """Part of step 8: the terms of the loss, with teachers that know the model as it is before its first step."""
    gate_only = [number for number, one in enumerate(reading.sources) if one.config.trains == "gate"]
    terms, head = recipe.train.losses, LossHead(model, gate_only)
    found = teachers(
        model,
        head,
        terms,
        load=lambda name: build.load_pair(name, attention=kernel_of(model))[0],
        partitioned=distributed.partitions_weights(recipe.train.zero),
    )
    return Objective(terms, found, head, names_of([one.config.path for one in reading.sources]))


def save_on_the_way(trainer: MixtureTrainer, processor: Any, run: resume.Run) -> None:
    """Part of step 8: checkpoints with states by `save_every`, a state where all processes stop on request."""
    trainer.stop_asked = preempt.asked
    trainer.add_callback(
        SaveEvery(
            run.recipe.train.save_every,
            save_checkpoint=lambda step: save_checkpoint(trainer, processor, run, step),
            save_state=lambda step: resume.save(trainer, run, step),
            stops=lambda: trainer.stop_agreed,
        )
    )


def take_all_steps(trainer: MixtureTrainer, saved: Path | None) -> None:
    """Step 9: every optimizer step, with exactly the manifest's tensors training from the first to the last."""
    if saved is not None:
        resume.go_on(trainer, saved)
    with text_only_batches(trainer), trainer.objective.head.installed():
        trainer.train()
    if trainer.state.global_step < trainer.state.max_steps:
        raise preempt.Stopped(f"stopped on request behind step {trainer.state.global_step}; run the same command to go on")


def save_checkpoint(trainer: MixtureTrainer, processor: Any, run: resume.Run, step: int) -> Path:
    """Step 10, or earlier by `save_every`: a complete model folder; on the way only what trains, if `checkpoints` says so."""
    config, target = run.recipe.train, run.folder / "checkpoints" / f"{PREFIX}{step}"
    # Collectives: every process takes part.
    if siamese.of(trainer.model) is None and (config.checkpoints == "whole" or step == run.reading.plan.steps):
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if distributed.is_first():
            checkpoint.save(trainer.model, processor, target, dtype=config.save_dtype, state=state)
    else:
        state = checkpoint.trainable_state(trainer.model, run.manifest, config.save_dtype)
        if distributed.is_first():
            checkpoint.save_trainable(trainer.model, processor, target, dtype=config.save_dtype, state=state, base=run.describe_base())
    if distributed.is_first() and config.keep_checkpoints is not None:
        for old in numbered(target.parent)[: -config.keep_checkpoints]:
            remove(old)
    return target


def loss_summary(trainer: MixtureTrainer) -> dict[str, float]:
    """First loss, last loss, mean over the last tenth of the steps."""
    losses = next(callback.losses for callback in trainer.callback_handler.callbacks if isinstance(callback, Metrics))
    last = losses[-max(1, len(losses) // 10) :]
    return {"first": losses[0], "last": losses[-1], "mean_of_last_tenth": sum(last) / len(last)}


def status(folder: Path) -> str | None:
    """How the run in a folder ended ("done", "failed", "interrupted", "running"); None where there is none."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")).get("status") if path.is_file() else None
