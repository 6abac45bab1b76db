"""Where a tree comes from: the model's weights, its template, the versions of what ran."""

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("perennial", "torch", "transformers", "tokenizers", "numpy")


def weights_hash(model: Any) -> str:
    """sha256 over the names, types, shapes and bytes of all weights, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
