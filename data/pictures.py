"""How a model's inputs show pictures: the mark in the text, the tokens of each picture, the tensors beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data.conversation import IMAGE_MARK

QWEN_TOKEN = "<|image_pad|>"

Sizes = Sequence[tuple[int, int]]  # (height, width) of each picture of one sample, in pixels


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a processor does with pictures, as far as the data layer needs it.

    Attributes:
        mark: What stands for one picture in a rendered dialogue.
        token: The one token in it that is repeated.
        fixed: Tokens of every picture; None where they depend on sizes.
        count: Sizes of one sample's pictures -> tokens of each; None where `fixed` says it.
        image_processor: Turns RGB arrays into tensors; None for a model without a tower.
        names_pictures: Whether the model wants the samples' numbers of pictures beside them (LLaVA-OneVision).
        types_tokens: Whether the model wants to know which tokens are pictures' (Qwen's three-dimensional positions).
    """

    mark: str = IMAGE_MARK
    token: str = IMAGE_MARK
    fixed: int | None = 0
    count: Callable[[Sizes], list[int]] | None = None
    image_processor: Any = None
    names_pictures: bool = False
    types_tokens: bool = False

    @property
    def none(self) -> bool:
        """Whether the model takes no pictures."""
        return self.fixed == 0

    @property
    def needs_sizes(self) -> bool:
        """Whether the tokens of a picture depend on its size."""
        return self.fixed is None

    def tokens(self, sizes: Sizes) -> list[int]:
        """Tokens of each picture of one sample.

        Args:
            sizes: Height, width of each; any numbers will do unless `needs_sizes`.

        Raises:
            ValueError: The model's processor refuses a size (Qwen: one side 200 times the other).
        """
        if self.fixed is not None:
            return [self.fixed] * len(sizes)
        assert self.count is not None
        return self.count(sizes) if sizes else []

    def inputs(self, samples: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        """The model's tensors for the pictures of a batch, in order; empty where there are none.

        Args:
            samples: For each sample its pictures, uint8 [height, width, 3].
        """
        images = [image for sample in samples for image in sample]
        if not images:
            return {}
        assert self.image_processor is not None
        made = self.image_processor(images=images, return_tensors="pt")
        tensors = {name: value for name, value in made.items() if name != "batch_num_images"}
        if self.names_pictures:
            import torch

            tensors["batch_num_images"] = torch.tensor([len(sample) for sample in samples if sample])
        return tensors


NO_PICTURES = Pictures()


def pictures_of(processor: Any) -> Pictures:
    """Reads from a transformers processor what the data layer needs; `NO_PICTURES` for a tokenizer.

    Raises:
        ValueError: The processor is of a family whose pictures are counted in no way known here.
    """
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        return NO_PICTURES
    family = type(processor).__name__
    token = processor.image_token
    if family == "LlavaProcessor":
        return Pictures(mark=token, token=token, fixed=_llava_tokens(processor), image_processor=image_processor)
    if not hasattr(processor, "_get_num_multimodal_tokens"):
        raise ValueError(
            f"{family} does not tell how many tokens a picture takes; use a LLaVA, LLaVA-NeXT, LLaVA-OneVision or Qwen-VL model"
        )
    several = family == "LlavaOnevisionProcessor"
    return Pictures(
        mark=f"<|vision_start|>{token}<|vision_end|>" if token == QWEN_TOKEN else token,
        token=token,
        fixed=None,
        count=partial(_counted, processor, several),
        image_processor=image_processor,
        names_pictures=several,
        types_tokens=token == QWEN_TOKEN,
    )


def _counted(processor: Any, several: bool, sizes: Sizes) -> list[int]:
    if several and len(sizes) > 1:
        # LLaVA-OneVision shows one picture in tiles, several whole: each its patches and one row end.
        return [processor.num_image_tokens + 1 - (processor.vision_feature_select_strategy == "default")] * len(sizes)
    return list(processor._get_num_multimodal_tokens(image_sizes=[list(size) for size in sizes]).num_image_tokens)


def _llava_tokens(processor: Any) -> int:
    """Patches of a picture at the tower's size; the processor's own count fails with towers that are not cropped to, such as SigLIP."""
    pictures = processor.image_processor
    size = pictures.crop_size if getattr(pictures, "do_center_crop", False) and pictures.crop_size else pictures.size
    tokens = (size["height"] // processor.patch_size) * (size["width"] // processor.patch_size) + processor.num_additional_image_tokens
    return int(tokens - (processor.vision_feature_select_strategy == "default"))
