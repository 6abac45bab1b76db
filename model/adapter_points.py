"""Points on the line between a model and the same model with an adapter, written as adapters."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.interpolate import names_inside, tensors, without_weights
from model.whole import whole_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, in front of the names of a model's modules
PARTS = {
    "LORA": (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"),
    "ADALORA": (".lora_A", ".lora_B", ".lora_E"),
    "IA3": (".ia3_l",),
}
UPDATE = {"LORA": ".lora_B.weight", "ADALORA": ".lora_E", "IA3": ".ia3_l"}  # in which the update is linear

Tensors = dict[str, Any]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, as PEFT saves one."""
    return (folder / CONFIG).is_file()


def is_linear(folder: Path) -> bool:
    """Whether the update of the weights is linear in the adapter's tensors: LoRA, AdaLoRA, IA3, but not DoRA, which divides by a norm."""
    return not _config(folder).get("use_dora")


def describe(folder: Path) -> dict[str, Any]:
    """The `adapter` section of a recipe that puts such an adapter in place; of a LoRA whose ranks differ, the one that its config names."""
    config = _config(folder)
    kind = "dora" if config.get("use_dora") else config["peft_type"].lower()
    if kind == "ia3":
        return {"kind": kind}
    ranks = {"rank": config["target_r"], "initial_rank": config["init_r"]} if kind == "adalora" else {"rank": config["r"]}
    return {"kind": kind, "alpha": float(config["lora_alpha"])} | ranks


def modules(folder: Path) -> set[str]:
    """Paths of the modules that carry the adapter, in the plain model."""
    return {_owner(name, part) for name, part, _ in _parts(folder)}


def scale_adapter(folder: Path, factor_of: Callable[[str], float], output: Path) -> Path:
    """Writes an adapter whose update of each module's weights is `factor` times as large.

    Exact for LoRA (B is scaled, in float32; so do WiSE-FT, arXiv 2109.01903, and PEFT's `rescale_adapter_scale`), AdaLoRA (its singular
    values are scaled) and IA3 (l becomes 1 + factor × (l - 1)). DoRA's B is scaled inside its norm, as `rescale_adapter_scale` does: its
    learned lengths stay, so factor 0 is not the base. Factor 1 keeps a module's tensors to the bit; factor 0 adds exactly nothing.

    Args:
        folder: The adapter, as `model.adapters.save_adapter` writes it.
        factor_of: Gives the factor of a module by its path in the plain model.
        output: Folder to write; must not exist.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        ValueError: It is of another kind, or holds tensors of other kinds; or `output` exists.
    """
    found: Tensors = {}
    kind = _config(folder)["peft_type"]
    for name, part, tensor in _parts(folder):
        found[name] = _scaled(tensor, factor_of(_owner(name, part)), 1.0 if kind == "IA3" else 0.0) if part == UPDATE[kind] else tensor
    return _write(found, _config(folder), folder, output)


def join_adapters(first: Path, second: Path, alpha: float, output: Path) -> Path:
    """Writes the LoRA whose update is (1 - alpha) times that of the first + alpha times that of the second, exactly.

    Ranks are joined, A = [A0; A1] with B = [(1 - alpha) s0 B0, alpha s1 B1], where s is each one's alpha / rank; at alpha 0 and 1 the files
    are an endpoint's, to the bit.

    Args:
        first: A LoRA.
        second: A LoRA on the same modules of the same base.
        alpha: Share of the second, 0 to 1.
        output: Folder to write; must not exist.

    Raises:
        FileNotFoundError: A folder holds no adapter.
        ValueError: One is no plain LoRA, or they stand on different modules.
    """
    pair = [{name: tensor for name, _, tensor in _parts(folder)} for folder in (first, second)]
    scales = [_scale(folder) for folder in (first, second)]
    _check_same(pair[0], pair[1], first, second)
    if alpha in (0, 1):
        chosen = (first, second)[int(alpha)]
        return _write(pair[int(alpha)], _config(chosen), chosen, output)
    import torch

    found: Tensors = {}
    for name, part, _ in _parts(first):
        one, other = (tensors_of[name].float() for tensors_of in pair)
        if part == UPDATE["LORA"]:
            one, other = (1 - alpha) * scales[0] * one, alpha * scales[1] * other
        found[name] = torch.cat([one, other], dim=1 if part == UPDATE["LORA"] else 0).contiguous()
    config = _config(second)
    rank = _config(first)["r"] + config["r"]
    return _write(found, config | {"r": rank, "lora_alpha": rank, "use_rslora": False}, second, output)


def trained_whole(tuned: Path, base: Mapping[str, Any], adapted: set[str]) -> Tensors:
    """What differs in a merged checkpoint from its base beside the modules with adapters, such as a projector that trained whole.

    Args:
        tuned: A whole model folder, into which an adapter was merged; read tensor by tensor.
        base: Name -> parameter of its base.
        adapted: Paths of the modules with adapters.

    Returns:
        Name of a parameter -> its tensor, as stored.

    Raises:
        ValueError: The two are not the same model.
    """
    import torch

    inside, found = names_inside(without_weights(tuned)), {}
    for stored, tensor in tensors(tuned):
        name = inside.get(stored, stored)
        if name.rpartition(".")[0] in adapted:
            continue
        if name not in base or base[name].shape != tensor.shape:
            raise ValueError(f"{tuned}: {stored} is no tensor of the base; give the base that it was tuned from (--against)")
        if not torch.equal(base[name].to(tensor.dtype), tensor):
            found[name] = tensor
    return found


def _parts(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Each tensor of an adapter: name, which of the kind's parts it is, the tensor."""
    from safetensors.torch import load_file

    kind = _config(folder).get("peft_type")
    if kind not in PARTS:
        raise ValueError(f"{folder}: adapters of type {kind} cannot be scaled here; supported are {', '.join(PARTS)} (DoRA is a LORA)")
    for name, tensor in load_file(folder / WEIGHTS).items():
        part = next((one for one in PARTS[kind] if name.endswith(one)), None)
        if part is None or not name.startswith(PREFIX):
            raise ValueError(f"{folder}: {name} belongs to no adapter of a linear layer; biases and embeddings are not supported")
        yield name, part, tensor


def _owner(name: str, part: str) -> str:
    return name.removeprefix(PREFIX).removesuffix(part)


def _scaled(tensor: Any, factor: float, neutral: float) -> Any:
    import torch

    if factor == 1:
        return tensor
    if factor == 0:
        return torch.full_like(tensor, neutral)
    return neutral + factor * (tensor.float() - neutral)


def _config(folder: Path) -> dict[str, Any]:
    if not is_adapter(folder):
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; give a checkpoint of a run with adapters, which keeps them in adapter/")
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def _scale(folder: Path) -> float:
    config = _config(folder)
    if config["peft_type"] != "LORA" or config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ValueError(f"{folder}: only plain LoRAs of one rank can be joined; give the merged models (their checkpoints) instead")
    return float(config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]))


def _check_same(one: Tensors, other: Tensors, first: Path, second: Path) -> None:
    different = sorted(one.keys() ^ other.keys())
    if different:
        where = first if different[0] in one else second
        raise ValueError(
            f"the adapters stand on different modules: {different[0]} only in {where} ({len(different)} such tensors); give adapters of "
            "one preset, or the merged models (their checkpoints) instead"
        )
    for name, tensor in one.items():
        axis = 0 if name.endswith(UPDATE["LORA"]) else 1  # the other axis is the rank, which may differ
        if tensor.shape[axis] != other[name].shape[axis]:
            raise ValueError(f"{name} is {list(tensor.shape)} in {first}, {list(other[name].shape)} in {second}: not of one base")


def _write(found: Tensors, config: dict[str, Any], like: Path, output: Path) -> Path:
    """An adapter folder; a config that stays as it is keeps its file."""
    from safetensors.torch import save_file

    if output.exists():
        raise ValueError(f"output: {output} exists; remove it, or give another folder")
    with whole_folder(output) as partial:
        save_file(found, partial / WEIGHTS, metadata={"format": "pt"})
        if config == _config(like):
            shutil.copyfile(like / CONFIG, partial / CONFIG)
        else:
            (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return output
