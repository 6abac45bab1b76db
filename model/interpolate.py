"""Points on the straight line between the weights of two checkpoints, one shard in memory at a time."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.quiet import without_bars
from model.whole import whole_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FINER = {"F32": ("F16", "BF16"), "F64": ("F32", "F16", "BF16")}  # safetensors' dtypes, each with those whose numbers it holds all of
SHOWN = 5  # names in a message


def interpolate(before: Path, after: Path, alpha: float, output: Path) -> Path:
    """Writes the model (1 - alpha) × before + alpha × after (WiSE-FT, arXiv 2109.01903).

    Computed in float32: in bfloat16 even weights that no training touched would move. Tensors that are equal in both stay as they are, to
    the bit; alpha 0 and 1 give the weights of an endpoint, to the bit where both are stored in one dtype. Files, dtypes, config, processor
    are those of `after`; what else its folder holds in subfolders, such as an adapter, is left out.

    Args:
        before: Folder of the model before tuning, safetensors in transformers' format.
        after: Folder of the tuned model, with the same tensors.
        alpha: Share of the tuned model, 0 to 1.
        output: Folder to write; must not exist, appears when everything in it is written.

    Raises:
        FileNotFoundError: A folder holds no safetensors.
        ValueError: The two do not hold the same tensors, alpha lies outside 0..1, or `output` exists.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: got {alpha}, expected a share of the tuned model from 0 (none of it) to 1 (all of it)")
    return scale_update(before, after, lambda _: alpha, output)


def scale_update(before: Path, after: Path, factor_of: Callable[[str], float], output: Path) -> Path:
    """Writes the model before + factor × (after - before), with a factor for each tensor; `interpolate` says the rest.

    Args:
        before: Folder of the model before tuning, safetensors in transformers' format.
        after: Folder of the tuned model, with the same tensors.
        factor_of: Gives the factor of a tensor by its name in the files of `after`; 0 and 1 give a tensor of an endpoint, to the bit.
        output: Folder to write; must not exist, appears when everything in it is written.

    Raises:
        FileNotFoundError: A folder holds no safetensors.
        ValueError: The two do not hold the same tensors, or `output` exists.
    """
    if output.exists():
        raise ValueError(f"output: {output} exists; remove it, or give another folder")
    places, tuned = _places(before), _places(after)
    _check(_shapes(places), _shapes(tuned), before, after)
    with whole_folder(output) as partial:
        for file in sorted(set(tuned.values())):
            _write_shard(file, places, factor_of, partial / file.name)
        for path in after.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, partial / path.name)
    return output


def check_base(folder: Path) -> None:
    """Fails where a model loaded from a folder would be saved with other tensors, so that the two could not be interpolated.

    Files of older versions of transformers may hold copies, or buffers that are no longer saved. Reads headers alone.

    Args:
        folder: Of the model before tuning.

    Raises:
        FileNotFoundError: It holds no safetensors.
        ValueError: The names differ; the message has some.
    """
    stored, saved = set(_places(folder)), set(names_inside(without_weights(folder)))
    problems = [f"{name} would be lost" for name in sorted(stored - saved)] + [f"{name} would be new" for name in sorted(saved - stored)]
    if problems:
        raise ValueError(
            f"{folder}: a checkpoint of this model would hold other tensors than its files, so that the two could not be interpolated: "
            f"{_some(problems)}. Load the model with this version of transformers, save it (save_pretrained), and begin with that"
        )


def without_weights(folder: Path) -> Any:
    """The model in a folder on the meta device, which knows under which names its tensors are stored."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    factory = AutoModelForImageTextToText if hasattr(AutoConfig.from_pretrained(folder), "vision_config") else AutoModelForCausalLM
    with without_bars():
        return factory.from_pretrained(folder, device_map="meta")


def names_inside(model: Any) -> dict[str, str]:
    """The name in saved files -> the name in the model, for every tensor that is saved; tied ones are saved once.

    Args:
        model: From `without_weights`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    weights = {name: one for name, one in model.state_dict().items() if name not in model.all_tied_weights_keys}
    return {stored: name for name, one in weights.items() for stored in revert_weight_conversion(model, {name: one})}


def holds_exactly(after: Path, before: Path) -> bool:
    """Whether the dtypes in which `after` is stored hold every number of `before`, so that alpha 0 is `before` itself."""
    kinds, wanted = _dtypes(after), _dtypes(before)
    return all(kind in (kinds[name], *FINER.get(kinds[name], ())) for name, kind in wanted.items() if name in kinds)


def tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """The tensors in a folder's files, by the names that they have there, one in memory at a time."""
    for name, file in sorted(_places(folder).items()):
        yield name, _tensor(file, name)


def mixed(before: Any, after: Any, alpha: float) -> Any:
    """One tensor of the line, in the dtype of `after`.

    Args:
        before: A tensor.
        after: A tensor of the same shape.
        alpha: Share of `after`: 0 is `before`, 1 is `after`, beyond 1 lies behind it.
    """
    import torch

    if alpha == 1 or not after.is_floating_point() or torch.equal(before.float(), after.float()):
        return after
    if alpha == 0:
        return before.to(after.dtype)
    return torch.lerp(before.float(), after.float(), alpha).to(after.dtype)


def _places(folder: Path) -> dict[str, Path]:
    """Each tensor's name with the file that holds it."""
    from safetensors import safe_open

    index = folder / INDEX
    if index.is_file():
        listed: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in listed.items()}
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder} holds neither {WEIGHTS} nor {INDEX}; give a model folder in transformers' format, saved as safetensors"
        )
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / WEIGHTS)


def _shapes(places: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    found = {}
    for file in set(places.values()):
        for name, piece in _slices(file):
            found[name] = tuple(piece.get_shape())
    return found


def _dtypes(folder: Path) -> dict[str, str]:
    return {name: piece.get_dtype() for file in set(_places(folder).values()) for name, piece in _slices(file)}


def _slices(file: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            yield name, opened.get_slice(name)


def _check(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], first: Path, second: Path) -> None:
    """Fails, naming tensors, unless both hold the same ones."""
    problems = [f"{name} only in {first}" for name in sorted(before.keys() - after.keys())]
    problems += [f"{name} only in {second}" for name in sorted(after.keys() - before.keys())]
    problems += [
        f"{name} is {list(before[name])} in {first}, {list(after[name])} in {second}"
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]
    if problems:
        raise ValueError(
            f"the two models do not hold the same tensors: {_some(problems)}. Give a model and what it was tuned "
            "to, both saved by one version of transformers"
        )


def _some(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{'; '.join(problems[:SHOWN])}{more}"


def _write_shard(file: Path, before: Mapping[str, Path], factor_of: Callable[[str], float], target: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        shard = {name: mixed(_tensor(before[name], name), opened.get_tensor(name), factor_of(name)) for name in names}
        save_file(shard, target, metadata=opened.metadata() or {"format": "pt"})


def _tensor(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
