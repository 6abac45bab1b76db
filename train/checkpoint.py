"""Checkpoints: whole folders in transformers' format, written in one step or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from model.quiet import without_bars

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def write_json(path: Path, values: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text beside the file, then renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def save(model: Any, processor: Any, folder: Path, *, dtype: str, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Writes a complete model folder: weights, config, generation config, processor.

    Args:
        model: The transformers model.
        processor: Its processor, or the tokenizer of a text-only model.
        folder: Must not hold anything of value; it appears when everything in it is written.
        dtype: "fp32" or "bf16".
        state: The weights, where the model itself does not hold them (ZeRO-3); None: its own.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = model.state_dict() if state is None else state
    cast = {name: tensor.detach().to("cpu", DTYPES[dtype]) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    with without_bars():
        model.save_pretrained(partial, state_dict=cast)
    processor.save_pretrained(partial)
    _record_dtype(partial / "config.json", str(DTYPES[dtype]).removeprefix("torch."))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def _record_dtype(path: Path, dtype: str) -> None:
    """The saved config names the dtype of the file, not the one the run computed in."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config", {}), config.get("vision_config", {})):
        if "dtype" in section:
            section["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
