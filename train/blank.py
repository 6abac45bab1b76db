"""A blank picture for batches without one, so that every rank takes the same way through the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from model.layout import layout_of

BLANK = 56  # pixels a side: the smallest picture that every family's processor takes


def blank_inputs(model: Any, pictures: Any) -> dict[str, torch.Tensor] | None:
    """What a processor makes of one blank picture; None where no batch ever needs it.

    Args:
        model: The model, with what trains chosen.
        pictures: How the model shows pictures, a `data.pictures.Pictures`.
    """
    return pictures.inputs([[np.zeros((BLANK, BLANK, 3), np.uint8)]]) if _needs_pictures(model) else None


@contextmanager
def text_only_batches(trainer: Any) -> Iterator[None]:
    """Lets a batch without pictures carry one that no token stands for.

    It goes through tower and projector on the same way as any other; of its features no row is left, so that they enter nowhere and every
    gradient there is an exact zero.
    """
    inner: Any = getattr(trainer.model, "model", None)
    if not hasattr(inner, "get_image_features"):
        yield
        return
    features = inner.get_image_features

    def none_left_of_a_blank(*arguments: Any, **options: Any) -> Any:
        found = features(*arguments, **options)
        if trainer.shows_a_blank:
            for name in ("pooler_output", "deepstack_features"):
                if getattr(found, name, None) is not None:
                    setattr(found, name, _no_rows(getattr(found, name)))
        return found

    inner.get_image_features = none_left_of_a_blank
    try:
        yield
    finally:
        del inner.get_image_features


def _no_rows(features: Any) -> Any:
    """The same nest of tensors, each without its rows."""
    return features[:0] if isinstance(features, torch.Tensor) else type(features)(_no_rows(one) for one in features)


def _needs_pictures(model: Any) -> bool:
    """Whether a batch must pass the tower for every parameter that trains to have a gradient."""
    if not hasattr(model.config, "vision_config"):
        return False
    layout = layout_of(model.config)
    trains = {layout.part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return bool(trains & {"vision_tower", "projector"})
