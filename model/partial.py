"""Folders that hold only what was trained, loaded on top of the model it was trained from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.config import OPEN_CLIP, ModelConfig
from model.identity import fingerprint
from model.source import is_hub_name

BASE, TRAINABLE, ADAPTER, GATE = "base.json", "trainable.safetensors", "adapter", "siamese.safetensors"
SOME_STEPS = 1  # of AdaLoRA's schedule, which matters to training alone
PARTS = ("base", "vision", "language")


def is_partial(folder: Path) -> bool:
    """Whether a folder holds only what was trained."""
    return (folder / BASE).is_file()


def is_siamese(folder: Path) -> bool:
    """Whether a folder holds an adapter that shares every token with its base, see `model.siamese`."""
    return is_partial(folder) and _told(folder)["model"].get("method") == "siamese"


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / BASE).read_text(encoding="utf-8"))
    return told


def laid_on_base(folder: Path, load: Callable[[ModelConfig, int], tuple[Any, Any]], attention: str) -> Any:
    """The whole model in float32, adapters merged in; of a siamese model base and twin, see `model.siamese`.

    Args:
        folder: From `train.checkpoint.save_trainable`.
        load: Loads or assembles what a `model` section asks for, with a seed.
        attention: Attention kernel.

    Raises:
        FileNotFoundError: The base is not where it was.
        ValueError: It is another model by now, or does not have the tensors.
    """
    told = _told(folder)
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
    if config.method == "siamese":
        return _with_twin(model, config, folder)
    return _replaced(_merged(model, folder / ADAPTER), folder / TRAINABLE)


def _with_twin(model: Any, config: ModelConfig, folder: Path) -> Any:
    from model.adapters import attach, put
    from model.siamese import make_siamese

    assert config.adapter is not None
    attach(model, config.adapter, config.preset, config.presets, steps=SOME_STEPS, seed=0)
    put(model, folder / ADAPTER)
    siamese = make_siamese(model, config.gate, seed=0)
    _fill(dict(siamese.gate.named_parameters()), folder / GATE)
    return model.requires_grad_(False)


def _merged(model: Any, adapter: Path) -> Any:
    if not adapter.is_dir():
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)


def _replaced(model: Any, file: Path) -> Any:
    if file.is_file():
        _fill(dict(model.named_parameters()), file, some=True)
    return model


def _fill(parameters: Mapping[str, Any], file: Path, *, some: bool = False) -> None:
    """Puts a file's tensors into parameters; all of these, or some."""
    import torch
    from safetensors.torch import load_file

    if not file.is_file() and (parameters or some):
        raise FileNotFoundError(f"{file} is missing; bring it back, or save the checkpoint again")
    saved = load_file(file) if parameters else {}
    missing = [name for name in parameters if name not in saved and not some]
    unknown = [name for name, tensor in saved.items() if name not in parameters or parameters[name].shape != tensor.shape]
    if unknown or missing:
        wrong = [f"{len(unknown)} tensors do not fit the base, {unknown[0]} for example"] if unknown else []
        wrong += [f"{len(missing)} tensors are missing, {missing[0]} for example"] if missing else []
        raise ValueError(f"{file}: {'; '.join(wrong)}; save the checkpoint again")
    with torch.no_grad():
        for name, tensor in saved.items():
            parameters[name].copy_(tensor)
