"""LoRA and its kin on a preset's modules, through PEFT."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.layout import layout_of
from model.manifest import Manifest, Tensor, make_manifest
from model.presets import select

if TYPE_CHECKING:
    import torch

NAME = "default"  # PEFT's own name for a model's only adapter, part of every tensor's name
ADALORA_WARM_SHARE, ADALORA_FINAL_SHARE = 0.1, 0.3  # of the steps: before ranks are cut, after the last cut
_USED = {
    "lora": {"rank", "alpha", "dropout"},
    "dora": {"rank", "alpha", "dropout"},
    "adalora": {"rank", "alpha", "dropout", "initial_rank"},
    "ia3": set(),
}


class AdapterConfig(BaseModel):
    """The `adapter` section of a recipe's `model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "dora", "adalora", "ia3"] = Field(
        description="lora (2106.09685), dora (2402.09353), adalora (2303.10512), ia3 (2205.05638)"
    )
    rank: int = Field(16, ge=1, description="of each adapter; adalora: the mean rank at the end")
    alpha: float | None = Field(None, gt=0, description="numerator of the scale alpha / rank; None: the rank, a scale of 1")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapters' inputs")
    initial_rank: int | None = Field(None, ge=1, description="adalora: rank at the start; None: one and a half times the last")

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> "AdapterConfig":
        fields = type(self).model_fields
        idle = {name for name in self.model_fields_set if getattr(self, name) != fields[name].default} - {"kind"} - _USED[self.kind]
        if idle:
            raise ValueError(f"{', '.join(sorted(idle))} has no effect on {self.kind}; leave it out")
        if self.initial_rank is not None and self.initial_rank < self.rank:
            raise ValueError(f"initial_rank {self.initial_rank} is smaller than rank {self.rank}, to which ranks are cut")
        return self


def attach(
    model: Any, config: AdapterConfig, preset: str, custom: Mapping[str, Sequence[str]] | None = None, *, steps: int, seed: int
) -> tuple[Any, Manifest]:
    """Puts an adapter on every linear layer of the language model that a preset names; only the adapters train.

    A projector that the preset names trains whole, as LLaVA's own LoRA recipe has it. Embeddings, norms and head, which `llm` names,
    carry no adapter.

    Args:
        model: Changed in place: its linear layers become PEFT's; its class stays.
        config: Kind and size.
        preset: Names of model/presets.py.
        custom: Presets of the recipe's own.
        steps: Optimizer steps to come, for AdaLoRA's schedule.
        seed: Draws the adapters' start; the global random state is left alone.

    Returns:
        PEFT's tuner, and the manifest of what trains.

    Raises:
        ValueError: The preset names the vision tower, or no linear layer of the language model.
    """
    import torch
    from peft import AdaLoraModel, IA3Model, LoraModel

    chosen, layout = select(model, preset, custom), layout_of(model.config)
    if any(layout.part_of(name) == "vision_tower" for name in chosen):
        raise ValueError(f"preset {preset!r} names the vision tower, which carries no adapter; give llm_blocks+projector, for example")
    places = {place.name: place for place in layout.places(model)}
    modules = dict(model.named_modules())
    owners = dict.fromkeys(
        name.rpartition(".")[0] for name in chosen if places[name].layer is not None and places[name].part == "language_model"
    )
    targets = [name for name in owners if isinstance(modules[name], torch.nn.Linear)]
    if not targets:
        raise ValueError(f"preset {preset!r} names no linear layer of the language model, so no {config.kind} can be put there")
    kinds = {"lora": LoraModel, "dora": LoraModel, "adalora": AdaLoraModel, "ia3": IA3Model}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = kinds[config.kind](model, _peft_config(config, targets, steps), NAME)
    whole = {name for name in chosen if layout.part_of(name) == "projector"}
    tensors = []
    for name, parameter in model.named_parameters():
        if name in whole:
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            tensors.append(Tensor(name=name, shape=tuple(parameter.shape), count=parameter.numel(), group=layout.part_of(name)))
    return tuner, make_manifest(f"{config.kind} on {preset}", tensors, sum(parameter.numel() for parameter in model.parameters()))


def _peft_config(config: AdapterConfig, targets: list[str], steps: int) -> Any:
    from peft import AdaLoraConfig, IA3Config, LoraConfig

    if config.kind == "ia3":
        # IA3 scales the outputs of attention and of the MLP's middle; of a layer that leads out of the middle, its inputs.
        return IA3Config(target_modules=targets, feedforward_modules=[name for name in targets if name.endswith(".down_proj")])
    shared = {"target_modules": targets, "lora_alpha": config.alpha or config.rank, "lora_dropout": config.dropout}
    if config.kind == "adalora":
        return AdaLoraConfig(
            init_r=config.initial_rank or -(-3 * config.rank // 2),
            target_r=config.rank,
            total_step=steps,
            tinit=round(ADALORA_WARM_SHARE * steps),
            tfinal=round(ADALORA_FINAL_SHARE * steps),
            deltaT=max(1, steps // 100),
            **shared,
        )
    return LoraConfig(r=config.rank, use_dora=config.kind == "dora", **shared)


def is_adapted(model: Any) -> bool:
    """Whether a model carries adapters."""
    return hasattr(model, "peft_config")


def parameters(model: Any) -> Iterator["torch.nn.Parameter"]:
    """The adapters' own parameters."""
    for _, layer in tuner_layers(model):
        for name in layer.adapter_layer_names:
            yield from getattr(layer, name).parameters()


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Lets a model be its base for a time; without adapters it is that already."""
    layers = [layer for _, layer in tuner_layers(model)] if is_adapted(model) else []
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_state(model: Any, state: Mapping[str, "torch.Tensor"] | None = None) -> dict[str, "torch.Tensor"]:
    """The weights of the model that the adapters and their base make together, under the plain model's names.

    Layer by layer, so that no second copy of the model is held on its device; the model itself stays as it is, to the last bit.

    Args:
        model: With adapters.
        state: Its weights, where it does not hold them itself (ZeRO-3); None: its own.
    """
    import torch

    found = dict(model.state_dict() if state is None else state)
    for path, layer in tuner_layers(model):
        with torch.no_grad(), _filled(layer, {name: found[f"{path}.{name}"] for name, _ in layer.named_parameters()}):
            layer.merge(safe_merge=True)
            merged = {name: tensor.detach().cpu().clone() for name, tensor in layer.get_base_layer().named_parameters()}
            layer.unmerge()
        for name in [name for name in found if name.startswith(f"{path}.")]:
            del found[name]
        found |= {f"{path}.{name}": tensor for name, tensor in merged.items()}
    return found


@contextmanager
def _filled(layer: Any, weights: Mapping[str, "torch.Tensor"]) -> Iterator[None]:
    """Puts copies of weights into a layer for a time; what it held, be it a part under ZeRO-3, comes back as it was.

    No process needs another one for that: under ZeRO-3 only the first has the weights to write.
    """
    parameters = dict(layer.named_parameters())
    held = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = weights[name].detach().clone()
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = held[name]


def save_adapter(model: Any, folder: Path, state: Mapping[str, "torch.Tensor"] | None = None) -> None:
    """Writes adapter_model.safetensors with adapter_config.json, as `PeftModel.from_pretrained` reads them.

    Args:
        model: With adapters.
        folder: Where to write.
        state: The model's weights, where it does not hold them itself (ZeRO-3); None: its own.
    """
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[NAME])
    # AdaLoRA's cut ranks are zeros in full matrices, and are saved as such; PEFT's own shortened form needs its tuner.
    if config.peft_type == "ADALORA":
        config.rank_pattern = None
    tensors = dict(model.state_dict() if state is None else state)
    with _config_of(model, config):
        own = _own_tensors(model, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config.save_pretrained(folder)


def put(model: Any, folder: Path) -> None:
    """Puts a saved adapter's tensors into a model that carries such an adapter; `save_adapter` writes the folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds other tensors than the model's adapter; the message names one.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; bring it back, or save the checkpoint again")
    saved = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(file).items()}
    wanted = _own_tensors(model, dict(model.state_dict()))
    both = saved.keys() & wanted.keys()
    wrong = sorted((saved.keys() ^ wanted.keys()) | {name for name in both if saved[name].shape != wanted[name].shape})
    if wrong:
        raise ValueError(f"{file}: {len(wrong)} tensors are not this model's adapter's, {wrong[0]} for example; save the checkpoint again")
    set_peft_model_state_dict(model, saved, adapter_name=NAME)


def _own_tensors(model: Any, state: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The adapter's tensors of a state, as PEFT names them in a file."""
    from peft import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model, state_dict=state, adapter_name=NAME, save_embedding_layers=False)
    return found


@contextmanager
def _config_of(model: Any, config: Any) -> Iterator[None]:
    """Lets PEFT see another adapter config for a time."""
    held, model.peft_config = model.peft_config, {NAME: config}
    try:
        yield
    finally:
        model.peft_config = held


def merge(tuner: Any) -> Any:
    """Merges the adapters for good; gives the plain model."""
    return tuner.merge_and_unload(safe_merge=True)


def tuner_layers(model: Any) -> Iterable[tuple[str, Any]]:
    """PEFT's layers in a model, with their paths."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
