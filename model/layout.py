"""Where the parts of a model lie, for every family."""

from dataclasses import dataclass
from typing import Any

PARTS = ("vision_tower", "projector", "language_model", "lm_head")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one parameter lies: its name, its part, the words of its name below the part's root."""

    name: str
    part: str
    words: tuple[str, ...]

    @property
    def layer(self) -> int | None:
        """The number of its layer, or None outside the layers."""
        return int(self.words[1]) if self.words[:1] == ("layers",) else None

    def lies_in(self, path: str) -> bool:
        """Whether it lies in the module at a path such as "language_model.layers.*.mlp", or is it; word by word, never by substring."""
        part, *rest = path.split(".")
        return part == self.part and len(self.words) >= len(rest) and all(w in ("*", has) for w, has in zip(rest, self.words, strict=False))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The modules that make up each part.

    Attributes:
        roots: Part -> paths of its modules or parameters. A path inside another part's module belongs to the deeper one, as Qwen-VL's
            merger, its projector, lies inside its vision tower.
        depth: Number of language layers.
    """

    roots: "Roots"
    depth: int

    def part_of(self, name: str) -> str:
        """The part that a parameter belongs to: that of the longest root above it.

        Raises:
            ValueError: No root lies above it: the family has a part that this table does not know.
        """
        return self._root_above(name)[0]

    def places(self, model: Any) -> list[Place]:
        """Where every parameter of a model lies, in the model's order."""
        found = []
        for name, _ in model.named_parameters():
            part, root = self._root_above(name)
            found.append(Place(name=name, part=part, words=tuple(name.removeprefix(root).removeprefix(".").split("."))))
        return found

    def _root_above(self, name: str) -> tuple[str, str]:
        """Part and path of the longest root above a parameter."""
        found = [
            (part, root) for part, roots in (self.roots | _BESIDE).items() for root in roots if name == root or name.startswith(root + ".")
        ]
        if not found:
            raise ValueError(f"parameter {name} belongs to no known part of the model; add its module to model/layout.py")
        return max(found, key=lambda pair: len(pair[1]))


Roots = dict[str, tuple[str, ...]]
_LLAVA: Roots = {
    "vision_tower": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector",),
    "language_model": ("model.language_model",),
    "lm_head": ("lm_head",),
}
# The row-end embedding of LLaVA-NeXT's grids is learned with the projector there.
_LLAVA_GRID: Roots = _LLAVA | {"projector": ("model.multi_modal_projector", "model.image_newline")}
_QWEN_VL: Roots = _LLAVA | {"vision_tower": ("model.visual",), "projector": ("model.visual.merger",)}
_TEXT: Roots = {"language_model": ("model",), "lm_head": ("lm_head",)}

GATE = "siamese_gate"  # its name in a model of any family, once `model.siamese` has put it there
_BESIDE: Roots = {"gate": (GATE,)}

FAMILIES: dict[str, Roots] = {
    "llava": _LLAVA,
    "llava_next": _LLAVA_GRID,
    "llava_onevision": _LLAVA_GRID,
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL | {"projector": ("model.visual.merger", "model.visual.deepstack_merger_list")},
}


def layout_of(config: Any) -> Layout:
    """The layout of a model with this transformers config.

    Raises:
        ValueError: The config is of a model with pictures whose family is not in `FAMILIES`.
    """
    if config.model_type in FAMILIES:
        return Layout(roots=FAMILIES[config.model_type], depth=config.text_config.num_hidden_layers)
    if hasattr(config, "vision_config"):
        raise ValueError(f"model type {config.model_type!r} is not supported; supported are {', '.join(FAMILIES)} and text-only models")
    return Layout(roots=_TEXT, depth=config.num_hidden_layers)


def is_reachable(name: str, config: Any) -> bool:
    """Whether a gradient can reach a parameter: false for tower layers above the one read, its last norm, its pooling head.

    LLaVA's families read the tower at `vision_feature_layer`, before its last norm; Qwen-VL's read all of theirs.
    """
    root = "model.vision_tower."
    layer = getattr(config, "vision_feature_layer", None)
    if layer is None or not name.startswith(root):
        return True
    words = name.removeprefix(root).removeprefix("vision_model.").split(".")
    if words[0] in ("post_layernorm", "head"):
        return False
    depth = config.vision_config.num_hidden_layers
    read = max(one if one >= 0 else depth + 1 + one for one in ([layer] if isinstance(layer, int) else layer))
    return words[:2] != ["encoder", "layers"] or int(words[2]) < read
