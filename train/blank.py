"""A blank picture for batches without one, so that every rank takes the same way through the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from model.layout import layout_of

BLANK = 56  # pixels a side: the smallest picture that every family's processor takes


def blank_inputs(model: Any, pictures: Any, *, partitioned: bool) -> dict[str, torch.Tensor] | None:
    """What a processor makes of one blank picture; None where no batch ever needs it.

    A batch without pictures needs one where tower or projector trains, else their parameters have no gradient while other ranks reduce
    theirs; or where parameters lie in parts on all ranks (ZeRO-3), which must ask for the same ones in the same order.

    Args:
        model: The model, with what trains chosen.
        pictures: How the model shows pictures, a `data.pictures.Pictures`.
        partitioned: Whether several ranks hold parts of each parameter.
    """
    if not hasattr(model.config, "vision_config") or not (partitioned or _seeing_trains(model)):
        return None
    return pictures.inputs([[np.zeros((BLANK, BLANK, 3), np.uint8)]])


@contextmanager
def text_only_batches(trainer: Any) -> Iterator[None]:
    """Lets a batch without pictures carry one that no token stands for; keeps no graph of a frozen tower with a frozen projector.

    The blank goes through tower and projector on the same way as any other; of its features no row is left, so that they enter nowhere and
    every gradient there is an exact zero. Gradient checkpointing makes every embedding's output ask for a gradient, the tower's too: a
    frozen tower would else be kept, and run backward, for nothing.
    """
    inner: Any = getattr(trainer.model, "model", None)
    if not hasattr(inner, "get_image_features"):
        yield
        return
    features, trains = inner.get_image_features, _seeing_trains(trainer.model)

    def none_left_of_a_blank(*arguments: Any, **options: Any) -> Any:
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
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


def _seeing_trains(model: Any) -> bool:
    """Whether anything of tower or projector trains."""
    layout = layout_of(model.config)
    return any(layout.part_of(name) in ("vision_tower", "projector") for name, one in model.named_parameters() if one.requires_grad)
