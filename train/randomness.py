"""The states of all global random number generators, as tensors."""

import random

import numpy as np
import torch

_PYTHON, _NUMPY = "python", "numpy"


def random_state() -> dict[str, torch.Tensor]:
    """States of Python's, NumPy's, torch's generator, of the current GPU's where there is one."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one, which libraries draw from
    assert kind == "MT19937"
    states = {
        "torch": torch.random.get_rng_state(),
        f"{_PYTHON}.words": torch.tensor(words, dtype=torch.int64),
        f"{_PYTHON}.gauss": torch.tensor([version, gauss is not None, gauss or 0.0], dtype=torch.float64),
        f"{_NUMPY}.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        f"{_NUMPY}.gauss": torch.tensor([place, has_gauss, cached], dtype=torch.float64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(states: dict[str, torch.Tensor]) -> None:
    """Puts every generator back to where `random_state` saw it; a GPU's only where both then and now there is one."""
    torch.random.set_rng_state(states["torch"])
    version, held, gauss = states[f"{_PYTHON}.gauss"].tolist()
    random.setstate((int(version), tuple(states[f"{_PYTHON}.words"].tolist()), gauss if held else None))
    place, has_gauss, cached = states[f"{_NUMPY}.gauss"].tolist()
    keys = states[f"{_NUMPY}.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(place), int(has_gauss), cached))  # noqa: NPY002
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
