"""AdaLoRA beside the steps: its penalty, its cutting of ranks."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from train import distributed
from train.masters import Masters

PENALTY = 0.5  # weight of the orthogonality term, PEFT's default
AVERAGES, RANKS = ("exp_avg_ipt", "exp_avg_unc"), "rank_pattern"  # PEFT's names


def companions(tuner: Any, trainer: Any) -> list[TrainerCallback]:
    """The callbacks that an adapter needs, its penalty given to the trainer: AdaLoRA's, or none."""
    if not hasattr(tuner, "rankallocator"):
        return []
    trainer.penalty = orthogonality
    return [CutRanks(tuner, lambda: trainer.deepspeed)]


def orthogonality(model: torch.nn.Module) -> torch.Tensor:
    """The regulariser of arXiv 2303.10512, equation 4: how far the singular vectors are from being orthonormal, mean over the matrices."""
    terms = []
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            product = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
            terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device, dtype=product.dtype)))
    return PENALTY * torch.stack(terms).mean()


class CutRanks(TrainerCallback):
    """Lets PEFT's allocator see every step's gradients, then cut ranks.

    DeepSpeed clears gradients inside its step, where the Trainer has no callback: so the engine's step is wrapped. PEFT asks DeepSpeed for
    gradients after the step, when they are gone: so they are kept and handed over.

    Args:
        tuner: PEFT's `AdaLoraModel`.
        engine: Gives the DeepSpeed engine, which exists once training has begun.
    """

    def __init__(self, tuner: Any, engine: Callable[[], Any]) -> None:
        self._tuner, self._engine, self._steps = tuner, engine, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        engine = self._engine()
        step, masters = engine.step, Masters(engine)
        own = [parameter for name, parameter in self._tuner.model.named_parameters() if ".lora_" in name and parameter.requires_grad]
        if any(hasattr(parameter, "ds_id") for parameter in own):
            raise ValueError("train.zero: adalora cuts ranks in whole parameters, which ZeRO-3 partitions; give zero2, or another adapter")

        def step_and_cut(*arguments: Any, **options: Any) -> Any:
            if not engine.is_gradient_accumulation_boundary():
                return step(*arguments, **options)
            gradients = [distributed.full_gradient(parameter).detach().clone() for parameter in own]
            result = step(*arguments, **options)
            self._steps += 1
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            before = [parameter.detach().clone() for parameter in own]
            _allocate(self._tuner, self._steps)
            for parameter, value in zip(own, before, strict=True):
                parameter.grad = None
                if not torch.equal(parameter, value):  # the others keep their masters, which in bf16 are finer than they are
                    masters.follow(parameter)
            return result

        engine.step = step_and_cut

    def remembered(self) -> dict[str, torch.Tensor]:
        """What the allocator knows, for a saved state: steps, both averages of each number's importance, the ranks left."""
        allocator = self._tuner.rankallocator
        tensors = {"steps": torch.tensor(self._steps)}
        for kind in AVERAGES:
            tensors |= {f"{kind}/{name}": average.cpu() for name, average in getattr(allocator, kind).items()}
        left = allocator.peft_config.rank_pattern or {}
        return tensors | {f"{RANKS}/{name}": torch.tensor(kept) for name, kept in left.items()}

    def remember(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up what `remembered` gave."""
        allocator, left = self._tuner.rankallocator, {}
        parameters = dict(self._tuner.model.named_parameters())
        self._steps = int(tensors["steps"])
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == RANKS:
                left[name] = tensor.tolist()
            elif kind in AVERAGES:
                here = tensor.to(parameters[name].device)
                getattr(allocator, kind)[name] = here
                allocator.ipt[name] = torch.zeros_like(here)  # made anew in every step; that it is there says that the averages count
        allocator.peft_config.rank_pattern = left or None


def _allocate(tuner: Any, step: int) -> None:
    """PEFT's `update_and_allocate`, reading gradients from the parameters."""
    from peft.tuners.adalora import layer

    asked, layer.deepspeed_config = layer.deepspeed_config, lambda: None
    try:
        tuner.update_and_allocate(step)
    finally:
        layer.deepspeed_config = asked
