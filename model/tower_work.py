"""What pictures cost the vision tower: patches, positions, pairs."""

from collections.abc import Sequence
from typing import Any

from model.flops import Work

_CLASS_TOKEN = {"clip_vision_model": 1}  # tower's model type -> positions of a tile besides its patches
_WINDOW = 112  # pixels: Qwen2.5-VL's, where a config does not say


def tower_work(config: Any, sizes: Sequence[tuple[int, int]], tokens: Sequence[int]) -> Work:
    """What the pictures of one sample add to a step.

    Args:
        config: Of a model of one of model/layout.py's families with pictures.
        sizes: (height, width) of each picture in pixels; without effect for LLaVA, which shows all in one size.
        tokens: Tokens of each in the language model.
    """
    vision = config.vision_config
    if hasattr(vision, "spatial_merge_size"):
        return _merged(vision, tokens)
    tiles = _tiles(config, sizes)
    patches = (vision.image_size // vision.patch_size) ** 2
    positions = patches + _CLASS_TOKEN.get(vision.model_type, 0)
    return Work(
        patches=tiles * patches,
        positions=tiles * positions,
        position_pairs=tiles * positions**2,
        projected=tiles * (patches if config.vision_feature_select_strategy == "default" else positions),
    )


def _merged(vision: Any, tokens: Sequence[int]) -> Work:
    """Qwen-VL's tower sees a picture whole, in its own size, and merges squares of patches into tokens."""
    patches = [count * vision.spatial_merge_size**2 for count in tokens]
    window = (getattr(vision, "window_size", _WINDOW) // vision.patch_size) ** 2
    return Work(
        patches=sum(patches),
        positions=sum(patches),
        position_pairs=sum(count**2 for count in patches),
        window_pairs=sum(count * min(count, window) for count in patches),
        projected=sum(tokens),
    )


def _tiles(config: Any, sizes: Sequence[tuple[int, int]]) -> int:
    """Pictures of the tower's size that a sample comes to: with grids one for each of its fields, one of the whole."""
    grids = getattr(config, "image_grid_pinpoints", None)
    if grids is None or (config.model_type == "llava_onevision" and len(sizes) > 1):  # OneVision shows several pictures whole
        return len(sizes)
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return sum(image_size_to_num_patches(list(size), grids, config.vision_config.image_size) for size in sizes)
