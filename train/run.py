"""One training run, from a recipe to a checkpoint, in ten named steps."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from data.atomic import write_json, write_text
from data.collate import Collator
from data.dataset import EncodedSource, MixedDataset, load_sources
from data.mixture import Order, mix, samples_per_epoch
from data.pictures import pictures_of
from model import adapters, build
from model.manifest import Manifest
from train import checkpoint, distributed
from train.adalora import companions
from train.callbacks import CheckManifest, Metrics, Progress, SaveEvery
from train.config import Recipe
from train.optim import with_rates
from train.record import Record, describe_data, describe_training
from train.trainer import MixtureTrainer, arguments, text_only_batches


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


def train(recipe: Recipe, *, progress: bool = True, overwrite: bool = True) -> RunResult:
    """Trains as a recipe says; may be called many times in one process.

    Args:
        recipe: Checked by `train.config.load_recipe` or `make_recipe`.
        progress: Show a bar and what was read.
        overwrite: Replace a finished run in the output folder, else refuse to; an unfinished one is always begun anew.

    Raises:
        ValueError: The recipe's data or model do not fit together.
        FloatingPointError: The loss became infinite or not a number.
    """
    start = time.perf_counter()
    folder = open_run_folder(recipe, overwrite)
    join_processes(recipe)
    model, processor = load_model(recipe)
    sources = read_data(recipe, processor, progress)
    order, steps = plan_order(sources, recipe, progress)
    manifest, tuner = choose_what_trains(model, recipe, steps)
    record = write_down_what_runs(recipe, folder, manifest, sources, order, steps)
    dataset = MixedDataset(sources, order)
    with (
        record.ending(),
        distributed.own_state(),
        closing(build_trainer(model, processor, recipe, (manifest, tuner), dataset, progress)) as trainer,
    ):
        take_all_steps(trainer)
        final = save_checkpoint(trainer, processor, recipe, folder, steps)
        record.update(loss=loss_summary(trainer), checkpoint=str(final.relative_to(folder)))
    return RunResult(folder=folder, checkpoint=final, seconds=time.perf_counter() - start)


def open_run_folder(recipe: Recipe, overwrite: bool) -> Path:
    """Step 1: an empty run folder; a finished run in it is kept unless `overwrite`."""
    assert recipe.output is not None
    folder = Path(recipe.output)
    if not distributed.is_first():
        return folder
    finished = status(folder) == "done"
    if finished and not overwrite:
        raise ValueError(f"output: {folder} holds a finished run; give another output, or --overwrite to replace it")
    if folder.exists() and not finished and any(folder.iterdir()) and status(folder) is None:
        raise ValueError(f"output: {folder} is not empty and holds no run; give another output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def join_processes(recipe: Recipe) -> None:
    """Step 2: the process group, the precision of products."""
    distributed.start()
    torch.set_float32_matmul_precision(recipe.train.matmul_precision)


def load_model(recipe: Recipe) -> tuple[Any, Any]:
    """Step 3: the model with its processor."""
    assert recipe.model is not None
    return build.load(recipe.model, recipe.train.seed)


def read_data(recipe: Recipe, processor: Any, progress: bool) -> list[EncodedSource]:
    """Step 4: every source, encoded; what is left out is told."""
    assert recipe.data is not None
    sources = load_sources(recipe.data, tokenizer_of(processor), pictures_of(processor))
    for source in sources:
        for reason, where in source.left_out.items():
            tell(f"{source.config.path}: {len(where)} records left out: {reason} (first: {where[0]})", progress)
    return sources


def plan_order(sources: Sequence[EncodedSource], recipe: Recipe, progress: bool) -> tuple[Order, int]:
    """Step 5: which sample stands where, over all steps."""
    assert recipe.data is not None
    share, size = recipe.data.text_share, recipe.train.batch_size
    described = [source.source for source in sources]
    steps = recipe.train.steps or max(1, round(recipe.train.epochs * samples_per_epoch(described, share) / size))
    order = mix(described, steps * size, seed=recipe.train.seed, text_share=share)
    for source, epochs in zip(described, order.epochs, strict=True):
        tell(f"{source.name}: {source.size} records, {epochs:.2f} epochs", progress)
    return order, steps


def choose_what_trains(model: Any, recipe: Recipe, steps: int) -> tuple[Manifest, Any]:
    """Step 6: the preset's parameters train, or adapters on them; all others are frozen. The second is PEFT's tuner, or None."""
    assert recipe.model is not None
    manifest, tuner = adapters.choose_what_trains(model, recipe.model, steps=steps, seed=recipe.train.seed)
    return with_rates(model, manifest, recipe.train), tuner


def write_down_what_runs(
    recipe: Recipe, folder: Path, manifest: Manifest, sources: Sequence[EncodedSource], order: Order, steps: int
) -> Record:
    """Step 7: config.yaml, trainable.json, run.json."""
    record = Record(
        folder / "run.json" if distributed.is_first() else None,
        stage=recipe.train.stage,
        steps=steps,
        seed=recipe.train.seed,
        processes=distributed.world_size(),
        trainable=describe_training(manifest),
        data=describe_data(sources, order),
    )
    if distributed.is_first():
        write_text(folder / "config.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        write_json(folder / "trainable.json", manifest.to_dict())
    record.update()
    return record


def build_trainer(
    model: Any, processor: Any, recipe: Recipe, trains: tuple[Manifest, Any], dataset: MixedDataset, progress: bool
) -> MixtureTrainer:
    """Step 8: the Trainer under DeepSpeed."""
    assert recipe.output is not None
    config, folder, first = recipe.train, Path(recipe.output), distributed.is_first()
    manifest, tuner = trains
    steps = len(dataset) // config.batch_size
    zero = distributed.zero_config(config.zero, manifest.trainable_parameters)
    args = arguments(config, steps=steps, processes=distributed.world_size(), deepspeed=zero, folder=str(folder))
    collator = Collator(tokenizer_of(processor), pictures_of(processor))
    tokens = dataset.lengths().reshape(steps, config.batch_size).sum(axis=1)
    callbacks: list[Any] = [
        Metrics(folder / "metrics.jsonl" if first else None, tokens),
        CheckManifest(model, manifest, verify_frozen=config.verify_frozen),
    ]
    if progress and first:
        callbacks.append(Progress(config.stage))
    trainer = MixtureTrainer(model, manifest, args, dataset, collator, callbacks)
    for companion in companions(tuner, trainer):
        trainer.add_callback(companion)
    if config.save_every is not None:
        trainer.add_callback(SaveEvery(config.save_every, lambda step: save_checkpoint(trainer, processor, recipe, folder, step)))
    return trainer


def take_all_steps(trainer: MixtureTrainer) -> None:
    """Step 9: every optimizer step, with exactly the manifest's tensors training from the first to the last."""
    with text_only_batches(trainer):
        trainer.train()


def save_checkpoint(trainer: MixtureTrainer, processor: Any, recipe: Recipe, folder: Path, step: int) -> Path:
    """Step 10, or earlier by `save_every`: a complete model folder."""
    target = folder / "checkpoints" / f"step-{step}"
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # a collective under ZeRO-3: every process takes part
    if distributed.is_first():
        checkpoint.save(trainer.model, processor, target, dtype=recipe.train.save_dtype, state=state)
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


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, which may be one itself."""
    return getattr(processor, "tokenizer", processor)


def tell(text: str, progress: bool) -> None:
    """Prints a line for the person who waits."""
    if progress and distributed.is_first():
        print(text, file=sys.stderr)
