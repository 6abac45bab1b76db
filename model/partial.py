"""Folders that hold only what was trained, loaded on top of the model it was trained from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.config import OPEN_CLIP, ModelConfig
from model.identity import fingerprint
from model.source import is_hub_name

BASE, TRAINABLE, ADAPTER = "base.json", "trainable.safetensors", "adapter"
PARTS = ("base", "vision", "language")


def is_partial(folder: Path) -> bool:
    """Whether a folder holds only what was trained."""
    return (folder / BASE).is_file()


def laid_on_base(folder: Path, load: Callable[[ModelConfig, int], tuple[Any, Any]], attention: str) -> Any:
    """The whole model in float32, adapters merged in.

    Args:
        folder: From `train.checkpoint.save_trainable`.
        load: Loads or assembles what a `model` section asks for, with a seed.
        attention: Attention kernel.

    Raises:
        FileNotFoundError: The base is not where it was.
        ValueError: It is another model by now, or does not have the tensors.
    """
    told = json.loads((folder / BASE).read_text(encoding="utf-8"))
    config = ModelConfig(**told["model"] | {"attention": attention})
    for name in PARTS:
        place = getattr(config, name)
        if place is not None and not is_hub_name(place) and not place.startswith(OPEN_CLIP) and not Path(place).is_dir():
            raise FileNotFoundError(
                f"{folder} holds only what was trained, on top of {place}, which is not there; write its new place into model.{name} of "
                f"{folder / BASE}"
            )
    model, _ = load(config, told["seed"])
    if fingerprint(model) != told["fingerprint"]:
        where = config.base or f"{config.vision} with {config.language}"
        raise ValueError(
            f"{folder} holds only what was trained, on top of {where}, which has other weights now than then; bring the old ones back, or "
            f"write their place into {folder / BASE}"
        )
    return _replaced(_merged(model, folder / ADAPTER), folder / TRAINABLE)


def _merged(model: Any, adapter: Path) -> Any:
    if not adapter.is_dir():
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)


def _replaced(model: Any, file: Path) -> Any:
    if not file.is_file():
        return model
    import torch
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    saved = load_file(file)
    unknown = [name for name, tensor in saved.items() if name not in parameters or parameters[name].shape != tensor.shape]
    if unknown:
        raise ValueError(f"{file}: {len(unknown)} tensors do not fit the base, {unknown[0]} for example; save the checkpoint again")
    with torch.no_grad():
        for name, tensor in saved.items():
            parameters[name].copy_(tensor)
    return model
