"""What is in a saved state: tensors and JSON, the same for every ZeRO stage, offload, number of processes."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from data.atomic import write_json
from model.manifest import Manifest
from train import distributed
from train.integrity import describe
from train.masters import BYTES, KINDS, Masters
from train.randomness import random_state, set_random_state

PROGRESS = "progress.json"
PIECE = 500_000_000  # bytes of one file, held in memory while it is gathered


def write(trainer: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes this process's part of a state; a collective.

    Each process writes the parameters that fall to it, its random numbers; the first one also the schedule, what callbacks remember.

    Args:
        trainer: The Trainer, between two steps.
        folder: Exists.

    Returns:
        Size and hash of each file written, by name.
    """
    masters, rank = Masters(trainer.deepspeed), distributed.rank()
    written: dict[str, Future[dict[str, Any]]] = {}
    with ThreadPoolExecutor(max_workers=1) as hashing:

        def put(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
            save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
            written[name] = hashing.submit(describe, folder / name)

        for number, piece in enumerate(_pieces(trainer, masters, rank)):
            put(f"weights-{rank:05d}-{number:03d}.safetensors", piece)
        put(_random_file(rank), random_state())
        if distributed.is_first():
            for name, callback in _remembering(trainer):
                put(f"{name}.safetensors", callback.remembered())
            progress = {
                "step": trainer.state.global_step,
                "optimizer_steps": masters.steps(),
                "schedule": trainer.lr_scheduler.state_dict(),
            }
            write_json(folder / PROGRESS, progress)
            written[PROGRESS] = hashing.submit(describe, folder / PROGRESS)
        return {name: found.result() for name, found in written.items()}


def _pieces(trainer: Any, masters: Masters, rank: int) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors that fall to a process, some at a time; every process must go through to the end."""
    parameters = dict(trainer.model.named_parameters())
    piece: dict[str, torch.Tensor] = {}
    held = 0
    for name, owner in owners(trainer.manifest, distributed.world_size()).items():
        values = masters.read(parameters[name])
        if owner != rank:
            continue
        size = sum(value.nbytes for value in values.values())
        if piece and held + size > PIECE:
            yield piece
            piece, held = {}, 0
        piece |= {f"{kind}/{name}": value.to("cpu") for kind, value in values.items()}
        held += size
    if piece:
        yield piece


def owners(manifest: Manifest, processes: int) -> dict[str, int]:
    """Which process writes which tensor: the one with the fewest bytes so far, the largest tensors first."""
    load = [0] * processes
    found = {}
    for tensor in sorted(manifest.tensors, key=lambda one: (-one.count, one.name)):
        found[tensor.name] = load.index(min(load))
        load[found[tensor.name]] += BYTES * tensor.count
    return found


class GoOn(TrainerCallback):
    """Puts a Trainer, its engine newly built, where a saved state was.

    Random numbers come last, before the first step is computed: making an iterator over the data draws one.

    Args:
        trainer: The Trainer.
        folder: The state, verified.
        step: The step behind which it was saved.
        processes: Processes that saved it.
    """

    def __init__(self, trainer: Any, folder: Path, step: int, processes: int) -> None:
        self._trainer, self._folder, self._step, self._processes = trainer, folder, step, processes
        self._drawn = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self._trainer
        progress = json.loads((self._folder / PROGRESS).read_text(encoding="utf-8"))
        assert progress["step"] == self._step
        masters = Masters(trainer.deepspeed)
        masters.begin(progress["optimizer_steps"])
        parameters = dict(trainer.model.named_parameters())
        for name, values in _saved_tensors(self._folder, trainer.manifest):
            masters.write(parameters[name], values)
        trainer.lr_scheduler.load_state_dict(progress["schedule"])
        for group, rate in zip(trainer.optimizer.param_groups, trainer.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        for name, callback in _remembering(trainer):
            callback.remember(load_file(self._folder / f"{name}.safetensors"))
        state.global_step = self._step
        trainer._globalstep_last_logged = trainer._initial_global_step = self._step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._drawn:
            set_random_state(load_file(self._folder / _random_file(distributed.rank() % self._processes)))
            self._drawn = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.epoch = state.global_step / state.max_steps  # the Trainer counts from where it began


def _saved_tensors(folder: Path, manifest: Manifest) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every trainable parameter's name with its tensors, one after the other, in the manifest's order."""
    files = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files.update(dict.fromkeys(file.keys(), path))
    for tensor in manifest.tensors:
        names = {kind: f"{kind}/{tensor.name}" for kind in KINDS}
        with safe_open(files[names["master"]], framework="pt") as file:
            yield tensor.name, {kind: file.get_tensor(name) for kind, name in names.items()}


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.safetensors"


def _remembering(trainer: Any) -> list[tuple[str, Any]]:
    """Callbacks whose tensors belong to the state: those with `remembered` and `remember`."""
    found = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "remembered")]
    return [(type(callback).__name__, callback) for callback in found]
