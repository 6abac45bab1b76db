"""Weights from files, every one of them."""

from pathlib import Path
from typing import Any

from model.quiet import without_bars

SHOWN = 5  # names in a message


def checked(factory: Any, folder: Path, dtype: str, attention: str) -> Any:
    """`from_pretrained` that refuses to invent missing weights or to drop unexpected ones; gives the model in evaluation mode.

    Raises:
        ValueError: The files and the model do not hold the same tensors; the message names some.
    """
    import torch

    with without_bars():
        model, info = factory.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True)
    problems = [
        f"{kind.replace('_keys', '')}: {', '.join(sorted(map(str, info[kind]))[:SHOWN])}{' ...' if len(info[kind]) > SHOWN else ''}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    if problems:
        raise ValueError(f"the weights in {folder} do not fit {type(model).__name__} ({'; '.join(problems)}); save the model again")
    return model.eval()
