"""What a DeepSpeed engine really holds while it trains, counted storage by storage."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback

import train.run
from train.config import make_recipe
from train.dry_run import dry_run

FLAT = "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition"
WAITING = "gradients of one micro batch"
MASTERS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups")  # stages 1 and 2, stage 3, none


def bytes_while_training(recipe: dict[str, Any]) -> dict[str, int]:
    """Trains as a recipe says; gives the bytes of weights, gradients, optimizer, and of gradients that wait for another micro batch's.

    Counted in the last step: the optimizer has its states then. Gradients at their most.
    """
    found: dict[str, int] = {"waiting": 0}
    steps = train.run.take_all_steps

    def watched(trainer: Any, *arguments: Any) -> None:
        trainer.add_callback(_Watch(trainer, found))
        steps(trainer, *arguments)

    with mock.patch.object(train.run, "take_all_steps", watched):
        train.run.train(make_recipe(recipe), progress=False)
    return found


class _Watch(TrainerCallback):
    """Looks at the engine in the last step: before gradients are reduced, before the optimizer steps."""

    def __init__(self, trainer: Any, found: dict[str, int]) -> None:
        self._trainer, self._found = trainer, found

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < state.max_steps - 1:
            return
        engine = self._trainer.deepspeed
        _before(engine, "step", lambda: self._look(engine))
        if hasattr(engine.optimizer, "get_all_grad_tensors"):
            _before(engine.optimizer, "independent_gradient_partition_epilogue", lambda: self._look_early(engine))
            _before(engine.optimizer, "get_all_grad_tensors", lambda: self._look_between(engine))

    def _look(self, engine: Any) -> None:
        if engine.is_gradient_accumulation_boundary():
            weights = _weights(engine)
            self._found |= {"weights": _sum(weights), "optimizer": _sum(_optimizer(engine), weights)}
            self._most("gradients", _sum(_gradients(engine), weights))

    def _look_early(self, engine: Any) -> None:
        if engine.zero_optimization_stage() == 1:  # stage 2 has them in its bucket then
            self._most("gradients", _sum(_gradients(engine)))

    def _look_between(self, engine: Any) -> None:
        self._most("waiting", _sum(tensor for group in engine.optimizer.all_grad_tensors.values() for tensor in group or ()))

    def _most(self, name: str, value: int) -> None:
        self._found[name] = max(value, self._found.get(name, 0))


def _before(owner: Any, name: str, look: Any) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        look()
        return original(*arguments, **options)

    setattr(owner, name, wrapped)


def _weights(engine: Any) -> list[torch.Tensor]:
    held = [one.data for one in engine.module.parameters()]
    held += [one.ds_tensor.data for one in engine.module.parameters() if hasattr(one, "ds_tensor")]
    return held + list(getattr(engine.optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", ()))


def _optimizer(engine: Any) -> list[torch.Tensor]:
    """AdamW's states, what it steps (the master weights)."""
    wrapper = engine.optimizer
    inner = getattr(wrapper, "optimizer", wrapper)
    states = [value for state in inner.state.values() for value in state.values() if torch.is_tensor(value) and value.dim()]
    masters = next((getattr(wrapper, name) for name in MASTERS if hasattr(wrapper, name)), [])
    return states + [one.data for group in masters for one in (group if isinstance(group, list) else [group])]


def _gradients(engine: Any) -> list[torch.Tensor]:
    wrapper = engine.optimizer
    found = [one.grad for one in engine.module.parameters() if one.grad is not None]
    found += [one for group in getattr(wrapper, "averaged_gradients", {}).values() for one in group or ()]
    found += list(getattr(wrapper, FLAT, {}).values()) + list(getattr(wrapper, "accumulated_grads_in_cpu", {}).values())
    masters = [one for name in MASTERS[:2] for one in getattr(wrapper, name, ())]
    return found + [one.grad for one in masters if one.grad is not None]


def _sum(tensors: Iterable[torch.Tensor], without: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of the storages behind tensors, each once."""
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    for one in without:
        storages.pop(one.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def expected_bytes(recipe: dict[str, Any], folder: Path, gpus: int = 1) -> dict[str, int]:
    """The same as a dry run reckons it, GPU and host together, since here they are one."""
    found = dry_run(make_recipe(recipe), folder / "recipe.yaml", gpus=gpus)["memory"]
    held = {name: found["gpu"][name] + found["host"][name] for name in ("weights", "gradients", "optimizer")}
    if gpus == 1 and found["zero"] == "zero3_offload":
        held["weights"] = found["host"]["weights"]  # one process on a CPU computes with the very tensors that it offloads
    return held | {"waiting": found["buffers"].get(WAITING, 0)}


def recipe_of(base: Path, data: Path, folder: Path, **train: Any) -> dict[str, Any]:
    """Two steps on a tiny model, in several parameter groups."""
    settings = {"learning_rate": 1e-3, "batch_size": 4, "steps": 2, "parts": {"projector": {"learning_rate": 1e-4}}, "weight_decay": 0.1}
    model = {"base": str(base), "preset": train.pop("preset", "projector+sa_proj")}
    return {"model": model, "data": {"sources": [{"path": str(data)}]}, "train": settings | train, "output": str(folder)}
