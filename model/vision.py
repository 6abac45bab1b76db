"""The vision tower of an assembly, with the picture processor that feeds it."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import OPEN_CLIP
from model.loading import checked
from model.source import folder_of

DEFAULT_LAYER = -2  # LLaVA-1.5's: one layer below the last
TOWERS = ("clip_vision_model", "siglip_vision_model")


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision tower as an assembly takes it.

    Attributes:
        model: A CLIPVisionModel or SiglipVisionModel in float32.
        image_processor: Makes pictures of the tower's size.
        layer: The layer to read where the recipe gives none: the source's own, else `DEFAULT_LAYER`.
        strategy: "default" leaves the class token out, "full" keeps all: likewise.
    """

    model: Any
    image_processor: Any
    layer: int | list[int]
    strategy: str

    @property
    def has_class_token(self) -> bool:
        """Whether its first feature is a class token's, not a patch's."""
        return hasattr(self.model.embeddings, "class_embedding")

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return int(self.model.config.image_size // self.model.config.patch_size) ** 2


def load_tower(source: str | Path, *, attention: str = "sdpa", image_size: int | None = None) -> Tower:
    """Loads a tower from a folder or hub name (CLIP, SigLIP, SigLIP 2 at a fixed size, or a LLaVA with one of these), or from open_clip.

    Args:
        source: The folder or name, or "open_clip:ViT-L-14-336:openai".
        attention: Attention kernel.
        image_size: Side of the pictures in pixels, where it is not to be the tower's own; position embeddings are interpolated.

    Raises:
        ValueError: The model is none of these, its weights are incomplete, or the size is no multiple of the patches'.
    """
    if str(source).startswith(OPEN_CLIP):
        from model.open_clip_to_hf import convert

        name, _, weights = str(source).removeprefix(OPEN_CLIP).partition(":")
        if not weights:
            raise ValueError(f"vision: {source} names no weights; write {OPEN_CLIP}{name}:TAG, a file in place of TAG, or random")
        with tempfile.TemporaryDirectory() as folder:
            converted = convert(name, None if weights == "random" else weights, Path(folder) / "tower")
            tower = _read(converted, attention)
    else:
        tower = _read(folder_of(source), attention)
    return tower if image_size is None else _resized(tower, image_size)


def _read(folder: Path, attention: str) -> Tower:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText

    config, layer, strategy = AutoConfig.from_pretrained(folder), DEFAULT_LAYER, "default"
    if hasattr(config, "text_config") and hasattr(config, "vision_feature_layer"):
        _known(config.vision_config.model_type, folder)
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        model = checked(AutoModelForImageTextToText, folder, "float32", attention).model.vision_tower
    elif hasattr(config, "vision_config"):  # a contrastive pair, of which the tower is one half
        _known(config.vision_config.model_type, folder)
        model = checked(AutoModel, folder, "float32", attention).vision_model
    else:
        _known(config.model_type, folder)
        model = checked(AutoModel, folder, "float32", attention)
    tower = Tower(model=model, image_processor=AutoImageProcessor.from_pretrained(folder), layer=layer, strategy=strategy)
    if tower.strategy == "default" and not tower.has_class_token:
        tower = replace(tower, strategy="full")
    _check_size(tower, folder)
    return tower


def _known(kind: str, folder: Path) -> None:
    if kind in TOWERS:
        return
    why = (
        " (its towers take patches of any number, which LLaVA's classes do not pass on: take a SigLIP 2 of fixed size)"
        if "siglip2" in kind
        else ""
    )
    raise ValueError(
        f"vision: {folder} is a {kind}, which an assembly cannot take{why}; give a CLIP, a SigLIP, a LLaVA with one, or {OPEN_CLIP}NAME:TAG"
    )


def _check_size(tower: Tower, folder: Path) -> None:
    """The picture processor must make what the tower takes."""
    processor, wanted = tower.image_processor, tower.model.config.image_size
    made = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sides = (made["height"], made["width"]) if "height" in made else (made["shortest_edge"],) * 2
    if sides != (wanted, wanted):
        raise ValueError(
            f"vision: {folder}: its picture processor makes {sides[0]} x {sides[1]} pixels, its tower takes "
            f"{wanted} x {wanted}; correct preprocessor_config.json"
        )


def _resized(tower: Tower, size: int) -> Tower:
    """The tower for pictures of another size: its grid of position embeddings interpolated (bicubic), its processor told."""
    import torch
    from torch.nn import functional

    config, embeddings = tower.model.config, tower.model.embeddings
    if size % config.patch_size:
        near = (size // config.patch_size * config.patch_size, -(-size // config.patch_size) * config.patch_size)
        raise ValueError(
            f"model.image_size: {size} is no multiple of the tower's patches of {config.patch_size} pixels; give {near[0]} or {near[1]}"
        )
    if size == config.image_size:
        return tower
    table, extra = embeddings.position_embedding.weight.data, int(tower.has_class_token)
    before, after = config.image_size // config.patch_size, size // config.patch_size
    grid = table[extra:].T.reshape(1, -1, before, before)
    grown = functional.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False, antialias=after < before)
    rows = torch.cat([table[:extra], grown.flatten(2)[0].T])
    embeddings.position_embedding = torch.nn.Embedding(*rows.shape, _weight=rows.contiguous())
    embeddings.num_patches = after**2
    embeddings.num_positions = len(rows)
    embeddings.image_size = config.image_size = size
    embeddings.register_buffer("position_ids", torch.arange(len(rows)).expand(1, -1), persistent=False)
    processor, square = tower.image_processor, {"height": size, "width": size}
    if "shortest_edge" in processor.size:
        processor.size = {"shortest_edge": size}
    else:
        processor.size = square
    if getattr(processor, "crop_size", None):
        processor.crop_size = square
    return tower
