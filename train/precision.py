"""Which precision a machine computes in."""

from collections.abc import Callable

import torch

NATIVE = ("amx_bf16", "avx512_bf16")  # without these, products in bf16 are a hundred times slower than in fp32 (AMD EPYC 7xx1)


def resolved(precision: str) -> str:
    """What `train.precision` comes to here: "fp32" or "bf16"; auto is bf16 on a GPU, or on a CPU that has instructions for it."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # newer than the oldest torch that runs here
    found = ask()
    return "bf16" if any(found.get(name) for name in NATIVE) else "fp32"
