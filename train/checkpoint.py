"""Checkpoints: whole folders in transformers' format, written in one step or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from data.atomic import write_text
from model import adapters
from model.quiet import without_bars
from model.whole import whole_folder
from train import distributed

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
            adapters.save_adapter(model, partial / "adapter", weights)
            weights = adapters.merged_state(model, weights, distributed.gathered)
        cast = {name: one.detach().to("cpu", DTYPES[dtype]) if one.is_floating_point() else one for name, one in weights.items()}
        with without_bars():
            model.save_pretrained(partial, state_dict=cast)
        processor.save_pretrained(partial)
        _record_dtype(partial / "config.json", str(DTYPES[dtype]).removeprefix("torch."))
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def _record_dtype(path: Path, dtype: str) -> None:
    """The saved config names the dtype of the file, not the one the run computed in."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config", {}), config.get("vision_config", {})):
        if "dtype" in section:
            section["dtype"] = dtype
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
