"""Preset name -> the modules that train: the table, the manifest, the check."""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Parameter

# Paths of modules. The first word is a part of the model (ROOTS); "*" stands for exactly one word. Presets of single blocks
# train neither norms nor embeddings nor the head; "llm" and "full" train them all (arXiv 2510.08564, released code).
_ATTENTION = tuple(f"language_model.layers.*.self_attn.{name}_proj" for name in "qkvo")
_GATE_UP = tuple(f"language_model.layers.*.mlp.{name}_proj" for name in ("gate", "up"))

PRESETS: dict[str, tuple[str, ...]] = {
    "full": ("vision_tower", "projector", "language_model", "lm_head"),
    "llm": ("language_model", "lm_head"),
    "projector": ("projector",),
    "vision": ("vision_tower",),
    "sa_proj": _ATTENTION,
    "mlp_gate_up": _GATE_UP,
}

VISUAL_ROOTS = {
    "vision_tower": "model.vision_tower",
    "projector": "model.multi_modal_projector",
    "language_model": "model.language_model",
    "lm_head": "lm_head",
}
TEXT_ROOTS = {"language_model": "model", "lm_head": "lm_head"}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One trainable tensor."""

    name: str
    shape: tuple[int, ...]
    count: int


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


def names(preset: str) -> tuple[str, ...]:
    """Splits "sa_proj+projector" into its presets.

    Raises:
        ValueError: A name is not in `PRESETS`; the message has the nearest one.
    """
    parts = tuple(part.strip() for part in preset.split("+"))
    for part in parts:
        if part not in PRESETS:
            near = difflib.get_close_matches(part, PRESETS, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown preset {part!r}; did you mean {near!r}? Presets: {', '.join(PRESETS)}; join several with '+'")
    return parts


def select(model: Any, preset: str) -> dict[str, "Parameter"]:
    """The parameters that a preset trains, by name, in the model's order.

    Parameters of the vision tower that no gradient can reach, because the projector reads an earlier layer, are left out.

    Raises:
        ValueError: The name is unknown, or a preset matches nothing in this model.
    """
    roots = VISUAL_ROOTS if hasattr(model.config, "vision_config") else TEXT_ROOTS
    parameters = {name: parameter for name, parameter in model.named_parameters() if _is_reachable(name, model.config)}
    chosen: set[str] = set()
    for part in names(preset):
        patterns = [_absolute(path, roots) for path in PRESETS[part] if path.split(".")[0] in roots]
        matched = {name for name in parameters if any(_matches(name, pattern) for pattern in patterns)}
        if not matched:
            raise ValueError(f"preset {part!r} matches no parameter of {type(model).__name__}; choose one of {', '.join(PRESETS)}")
        chosen |= matched
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def apply(model: Any, preset: str) -> Manifest:
    """Lets exactly the preset's parameters train; gives the manifest."""
    chosen = select(model, preset)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    tensors = tuple(Tensor(name=name, shape=tuple(one.shape), count=one.numel()) for name, one in chosen.items())
    text = json.dumps([[tensor.name, tensor.shape] for tensor in tensors])
    return Manifest(
        preset=preset,
        tensors=tensors,
        trainable_parameters=sum(tensor.count for tensor in tensors),
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def check(model: Any, manifest: Manifest) -> None:
    """Fails unless exactly the manifest's parameters train; call it after anything that may replace parameters."""
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = {tensor.name for tensor in manifest.tensors}
    if trains != wanted:
        lost, extra = sorted(wanted - trains)[:3], sorted(trains - wanted)[:3]
        raise RuntimeError(f"preset {manifest.preset!r} is not what trains: {lost} should train, {extra} should not")


def _absolute(path: str, roots: dict[str, str]) -> list[str]:
    root, *rest = path.split(".")
    return [*roots[root].split("."), *rest]


def _matches(name: str, pattern: list[str]) -> bool:
    """Whether a parameter lies in a module of this path; word by word, never by substring."""
    words = name.split(".")
    return len(words) > len(pattern) and all(wanted in ("*", word) for word, wanted in zip(words, pattern, strict=False))


def _is_reachable(name: str, config: Any) -> bool:
    """Whether a gradient can reach a parameter: false for tower layers above the one read, its last norm, its pooling head."""
    root = VISUAL_ROOTS["vision_tower"] + "."
    layer = getattr(config, "vision_feature_layer", None)
    if layer is None or not name.startswith(root):
        return True
    words = name.removeprefix(root).removeprefix("vision_model.").split(".")
    if words[0] in ("post_layernorm", "head"):
        return False
    depth = config.vision_config.num_hidden_layers
    read = max(one if one >= 0 else depth + 1 + one for one in ([layer] if isinstance(layer, int) else layer))
    return words[:2] != ["encoder", "layers"] or int(words[2]) < read
