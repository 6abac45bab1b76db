"""The manifest: exactly what trains, written down, compared."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHOWN = 3  # names in a message; trainable.json has all


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One trainable tensor.

    Attributes:
        name: Its name in the model.
        shape: Its shape.
        count: Its numbers.
        group: Part of the model: one of `model.layout.PARTS`, or "adapter".
        learning_rate: Peak learning rate; None before a recipe gave one.
        weight_decay: AdamW's; None before a recipe gave one.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    group: str
    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Exactly what trains.

    Attributes:
        preset: The name asked for.
        tensors: Every trainable tensor, in the model's order.
        trainable_parameters: Their numbers, summed.
        total_parameters: All parameters of the model.
        sha256: Hash of names and shapes; two runs with equal hashes train the same tensors.
    """

    preset: str
    tensors: tuple[Tensor, ...]
    trainable_parameters: int
    total_parameters: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON takes it."""
        return asdict(self)


def make_manifest(preset: str, tensors: Sequence[Tensor], total_parameters: int) -> Manifest:
    """Sums and hashes; the hash covers names and shapes, not learning rates, which may change between two parts of one run."""
    text = json.dumps([[tensor.name, list(tensor.shape)] for tensor in tensors])
    return Manifest(
        preset=preset,
        tensors=tuple(tensors),
        trainable_parameters=sum(tensor.count for tensor in tensors),
        total_parameters=total_parameters,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def check(model: Any, manifest: Manifest, when: str = "now") -> None:
    """Fails unless exactly the manifest's tensors train, in their shapes; call it after anything that may replace parameters.

    Args:
        model: The model.
        manifest: What should train.
        when: Words for the message: "after the engine was built".

    Raises:
        RuntimeError: Something else trains; the message names what.
    """
    trains = {name: _shape(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = {tensor.name: tensor.shape for tensor in manifest.tensors}
    problems = differences(wanted, trains)
    if problems:
        raise RuntimeError(f"preset {manifest.preset!r} is not what trains {when}: {'; '.join(problems)}")


def compare(saved: dict[str, Any], manifest: Manifest, where: str) -> None:
    """Fails unless a saved manifest (trainable.json) lists the same tensors as the one at hand.

    Raises:
        ValueError: They differ; the message says how, with what to do.
    """
    if saved.get("sha256") == manifest.sha256:
        return
    before = {one["name"]: tuple(one["shape"]) for one in saved["tensors"]}
    problems = differences(before, {tensor.name: tensor.shape for tensor in manifest.tensors})
    raise ValueError(
        f"{where} was made by preset {saved['preset']!r}, this run trains {manifest.preset!r}: {'; '.join(problems)}. "
        f"Optimizer states of other tensors cannot be taken over; give model.preset: {saved['preset']}, or start a new run"
    )


def differences(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    """What differs between two sets of named shapes, in words; empty where nothing does."""
    lost, extra = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    changed = [f"{name} (was {wanted[name]}, is {found[name]})" for name in wanted if name in found and wanted[name] != found[name]]
    kinds = ((lost, "should train and do not"), (extra, "train and should not"), (changed, "changed shape"))
    return [f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}" for names, kind in kinds if names]


def frozen_hashes(model: Any) -> dict[str, str]:
    """SHA-256 of the bytes of every tensor that does not train; under ZeRO-3 of this process's share of it."""
    import torch

    hashes = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            held = getattr(parameter, "ds_tensor", parameter).detach().cpu().contiguous()
            hashes[name] = hashlib.sha256(held.reshape(-1).view(torch.uint8).numpy()).hexdigest()
    return hashes


def _shape(parameter: Any) -> tuple[int, ...]:
    """A parameter's own shape; under ZeRO-3 the tensor itself is empty and DeepSpeed keeps the shape beside it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
