"""Checkpoints: folders in transformers' format, or of what trains alone, written in one step or not at all."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from data.atomic import write_json, write_text
from model import adapters, layout
from model.manifest import Manifest
from model.partial import ADAPTER, BASE, GATE, TRAINABLE
from model.quiet import without_bars
from model.siamese import additions
from model.whole import whole_folder
from train import distributed
from train.folders import remove

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save(model: Any, processor: Any, folder: Path, *, dtype: str, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Writes a complete model folder: weights, config, generation config, processor; adapters are merged in, and kept in `adapter/`.

    Args:
        model: The transformers model.
        processor: Its processor, or the tokenizer of a text-only model.
        folder: Must not hold anything of value; it appears when everything in it is written.
        dtype: "fp32" or "bf16".
        state: The weights, where the model itself does not hold them (ZeRO-3); None: its own.
    """
    with whole_folder(folder) as partial:
        weights = model.state_dict() if state is None else state
        if adapters.is_adapted(model):
            adapters.save_adapter(model, partial / ADAPTER, weights)
            weights = adapters.merged_state(model, weights)
        cast = _cast(weights, DTYPES[dtype])
        with without_bars():
            model.save_pretrained(partial, state_dict=cast)
        processor.save_pretrained(partial)
        _record_dtype(partial / "config.json", str(DTYPES[dtype]).removeprefix("torch."))
        remove(folder)
    return folder


def _cast(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights on the CPU in a dtype; tied ones stay one tensor, so that they are saved once."""
    made: dict[tuple[Any, ...], torch.Tensor] = {}
    found = {}
    for name, one in weights.items():
        place = (one.data_ptr(), one.shape, one.stride(), one.dtype)
        if place not in made or not one.numel():
            made[place] = one.detach().to("cpu", dtype) if one.is_floating_point() else one
        found[name] = made[place]
    return found


def trainable_state(model: Any, manifest: Manifest, dtype: str) -> dict[str, torch.Tensor]:
    """What trains, on the CPU, in the first process; {} in the others. A collective under ZeRO-3, one tensor after the other."""
    parameters = dict(model.named_parameters())
    state = {}
    for tensor in manifest.tensors:
        with distributed.gathered([parameters[tensor.name]]):
            if distributed.is_first():
                state[tensor.name] = parameters[tensor.name].detach().to("cpu", DTYPES[dtype], copy=True)
    return state


def save_trainable(model: Any, processor: Any, folder: Path, *, dtype: str, state: dict[str, torch.Tensor], base: dict[str, Any]) -> Path:
    """Writes only what trains, with what `model.partial` needs to lay it on its base; `save` says the rest.

    Args:
        model: The transformers model.
        processor: Its processor, or the tokenizer of a text-only model.
        folder: Appears when everything in it is written.
        dtype: "fp32" or "bf16", of `state`.
        state: From `trainable_state`.
        base: What to load first: the recipe's `model` section, the seed, the fingerprint.
    """
    with whole_folder(folder) as partial:
        own = {id(parameter) for parameter in additions(model)}
        beside = {name for name, parameter in model.named_parameters() if id(parameter) in own}
        of_gate = {name for name in beside if name.startswith(f"{layout.GATE}.")}
        if beside:
            adapters.save_adapter(model, partial / ADAPTER, {name: one for name, one in state.items() if name in beside - of_gate})
        if of_gate:
            save_file({name.removeprefix(f"{layout.GATE}."): state[name] for name in of_gate}, partial / GATE, metadata={"format": "pt"})
        whole = {name: one.contiguous() for name, one in state.items() if name not in beside}
        if whole:
            save_file(whole, partial / TRAINABLE, metadata={"format": "pt"})
        write_json(partial / BASE, base)
        model.config.save_pretrained(partial)
        if model.can_generate():
            model.generation_config.save_pretrained(partial)
        processor.save_pretrained(partial)
        _record_dtype(partial / "config.json", str(DTYPES[dtype]).removeprefix("torch."))
        remove(folder)
    return folder


def _record_dtype(path: Path, dtype: str) -> None:
    """The saved config names the dtype of the file, not the one the run computed in."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config", {}), config.get("vision_config", {})):
        if "dtype" in section:
            section["dtype"] = dtype
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
