"""The only file that imports torch.distributed or deepspeed: processes, their ranks, the engine's settings."""

import json
import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ONE_BUCKET = 50_000_000  # parameters
ZERO_CONFIGS = Path(__file__).parents[1] / "zero_configs"


def check_launcher() -> None:
    """Fails where several processes would each believe to be alone.

    Raises:
        ValueError: srun started several tasks, but nothing tells them their ranks.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" not in os.environ and int(tasks) > 1:
        raise ValueError(
            f"srun started {tasks} tasks that do not know their ranks; let srun start one torchrun on each node, or export "
            "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_STEP_NUM_TASKS with MASTER_ADDR and MASTER_PORT in each task"
        )


def start() -> None:
    """Joins the process group; a process without a launcher makes a group of its own.

    May be called any number of times in one process: all runs in it share the group.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        for name, value in alone.items():
            os.environ.setdefault(name, value)
    if "OMP_NUM_THREADS" not in os.environ:  # else accelerate chooses a number of its own
        threads = max(1, torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    _quieten()
    import deepspeed

    if not torch.cuda.is_available():
        # DeepSpeed would compile its shared-memory collectives at the first start: a minute, with a C++ compiler needed.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    if torch.cuda.is_available():
        # The engine does so as well, but processes talk before there is one: two on one GPU would wait for ever.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def zero_config(name: str, trainable_parameters: int) -> dict[str, Any]:
    """The DeepSpeed settings in zero_configs/NAME.json; every value "auto" is filled by the Trainer.

    One value is filled here: the Trainer's bucket of hidden size squared holds one matrix, so that a small model would start one
    reduction for each of its tensors. All of a small model fits in one bucket.
    """
    config: dict[str, Any] = json.loads((ZERO_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    zero = config["zero_optimization"]
    if zero.get("reduce_bucket_size") == "auto" and trainable_parameters <= ONE_BUCKET:
        zero["reduce_bucket_size"] = trainable_parameters
    return config


def partitions_weights(name: str) -> bool:
    """Whether no process holds whole weights under the settings in zero_configs/NAME.json."""
    return bool(zero_config(name, 0)["zero_optimization"]["stage"] == 3)


@contextmanager
def gathered(parameters: Iterable[Any]) -> Iterator[None]:
    """Makes parameters whole that ZeRO-3 has partitioned, in every process; what is done to them inside is lost."""
    held = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not held:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(held, modifier_rank=None):
        yield


def keep_gradient_norm(engine: Any) -> None:
    """Lets an engine tell the gradient's norm at stage 0 in fp32 as well, where DeepSpeed clips by it but does not keep it."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(parameters=engine.module.parameters(), max_norm=engine.gradient_clipping())

    engine.clip_fp32_gradients = clip


def full_gradient(parameter: Any) -> Any:
    """The gradient of a parameter over all processes, before the engine's step clears it; a collective under ZeRO."""
    from deepspeed.utils import safe_get_full_grad

    return safe_get_full_grad(parameter)


def full_fp32(parameter: Any, moment: str | None = None) -> Any:
    """The master weights of a parameter that ZeRO keeps, float32 in its full shape, or a moment of its optimizer; a collective.

    Args:
        parameter: It trains; stage 1, 2 or 3.
        moment: AdamW's "exp_avg" or "exp_avg_sq"; None: the weights.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    return safe_get_full_fp32_param(parameter) if moment is None else safe_get_full_optimizer_state(parameter, moment)


def put_fp32(parameter: Any, value: Any, moment: str | None = None) -> None:
    """Sets this process's share of what `full_fp32` gives, from the whole; the parameter itself stays as it is."""
    from deepspeed import utils

    if hasattr(parameter, "ds_id"):
        weights, moments = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        value = _share_of(parameter, value)  # DeepSpeed's own cut does not fit where the last process holds padding
    else:
        weights, moments = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
    if moment is None:
        weights(parameter, value)
    else:
        moments(parameter, value, moment)


def _share_of(parameter: Any, value: Any) -> Any:
    import torch

    size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank(group=parameter.ds_process_group)
    held = value.reshape(-1)[size * rank : size * (rank + 1)]
    return torch.nn.functional.pad(held, (0, size - len(held)))


@contextmanager
def rewriting(parameter: Any) -> Iterator[None]:
    """Makes a parameter whole that ZeRO-3 may have partitioned; what the first process does to it inside is kept by all."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield


@contextmanager
def own_state() -> Iterator[None]:
    """Gives a training the global state of transformers, accelerate, DeepSpeed for itself; afterwards nothing of it is left."""
    import torch

    before, linear = set(os.environ), torch.nn.functional.linear
    _forget()
    try:
        yield
    finally:
        _forget()
        torch.nn.functional.linear = linear  # ZeRO-3 puts one of its own there, which keeps the inputs of frozen layers as well
        for name in set(os.environ) - before:
            if name.startswith("ACCELERATE_"):
                del os.environ[name]


def _forget() -> None:
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def world_size() -> int:
    """Number of processes in the group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Comes back when every process has come here."""
    import torch

    if world_size() > 1:
        torch.distributed.barrier()


def everywhere(value: Any) -> list[Any]:
    """What each process says, in the order of their ranks: plain data; a collective."""
    import torch

    said = [value] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(said, value)
    return said


def rank() -> int:
    """Number of this process in the group."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _quieten() -> None:
    """DeepSpeed logs a page at every start; warnings stay."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime is found": true, harmless
    warnings.filterwarnings("ignore", module=r"deepspeed\..*", category=FutureWarning)
