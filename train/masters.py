"""Master weights of what trains with AdamW's moments, parameter by parameter, whatever the ZeRO stage."""

from collections.abc import Iterable
from typing import Any

import torch

from train import distributed

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("master", *MOMENTS)
BYTES = 4 * len(KINDS)  # for each trainable parameter
# Where DeepSpeed's optimizers keep the flat float32 tensors that AdamW steps: stages 1 and 2, bf16 without ZeRO's own, stage 3.
_FLAT = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat")


class Masters:
    """Reads and replaces the float32 weights and moments behind an engine's parameters.

    Args:
        engine: DeepSpeed's, with AdamW, at any stage.
    """

    def __init__(self, engine: Any) -> None:
        self._zero, self._adam = engine.optimizer, engine.basic_optimizer
        self._found = False
        pairs = zip(getattr(self._zero, "fp16_groups", ()), getattr(self._zero, "fp32_groups", ()), strict=False)
        # bf16 without ZeRO: a float32 copy stands beside each parameter.
        self._copies = {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}

    def read(self, parameter: Any) -> dict[str, torch.Tensor]:
        """Master weights and moments of a parameter, float32 in its full shape; a collective."""
        if _is_held_by_zero(parameter):
            self._find_moments()
            return {"master": distributed.full_fp32(parameter)} | {name: distributed.full_fp32(parameter, name) for name in MOMENTS}
        held = self._held(parameter)
        return {"master": held.detach()} | {name: self._adam.state[held][name] for name in MOMENTS}

    @torch.no_grad()
    def write(self, parameter: Any, values: dict[str, torch.Tensor]) -> None:
        """Replaces what `read` gives, with the parameter that is computed with; after `begin`, in every process."""
        if _is_held_by_zero(parameter):
            distributed.put_fp32(parameter, values["master"])
            for name in MOMENTS:
                distributed.put_fp32(parameter, values[name], name)
        else:
            held = self._held(parameter)
            held.copy_(values["master"])
            for name in MOMENTS:
                self._adam.state[held][name].copy_(values[name])
        with distributed.rewriting(parameter):
            parameter.copy_(values["master"])

    @torch.no_grad()
    def follow(self, parameter: Any) -> None:
        """Takes up a parameter that was changed by hand, else the next step would undo the change; not for partitioned ones."""
        if _is_held_by_zero(parameter):
            distributed.put_fp32(parameter, parameter.detach().float())
        elif (held := self._held(parameter)) is not parameter:
            held.copy_(parameter)

    def steps(self) -> int:
        """Steps that AdamW has taken."""
        counts = {int(self._adam.state[tensor]["step"]) for tensor in self._stepped()}
        assert len(counts) == 1, f"every parameter takes every step, found {sorted(counts)}"
        return counts.pop()

    def begin(self, steps: int) -> None:
        """Gives AdamW, which makes its moments in its first step, some to write to, behind so many steps."""
        for tensor in self._stepped():
            count = torch.tensor(float(steps), dtype=torch.float32, device=tensor.device)
            held = self._adam.state[tensor]
            held["step"] = count
            for name in MOMENTS:
                held.setdefault(name, torch.zeros_like(tensor, requires_grad=False))
        self._find_moments()

    def _find_moments(self) -> None:
        """Lets ZeRO 1 and 2 find the moments of every parameter: by themselves they look for them once, behind the first group's step."""
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state") and not self._found:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()
            self._found = True

    def _held(self, parameter: Any) -> Any:
        return self._copies.get(id(parameter), parameter)

    def _stepped(self) -> Iterable[Any]:
        """The tensors that AdamW holds states of."""
        flat = next((getattr(self._zero, name) for name in _FLAT if hasattr(self._zero, name)), None)
        return flat if flat is not None else [tensor for group in self._adam.param_groups for tensor in group["params"]]


def _is_held_by_zero(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
