"""Which model this is: a hash of names, shapes, a few numbers of every tensor."""

import hashlib
import json
from typing import Any

SAMPLED = 64  # numbers of each tensor, evenly spread


def fingerprint(model: Any) -> str:
    """SHA-256 over each parameter's name, shape, `SAMPLED` numbers in float32; call it before anything trains or is partitioned.

    It costs milliseconds where hashing all weights costs minutes. Another model, or the same one tuned, has other numbers everywhere.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, max(0, flat.numel() - 1), min(SAMPLED, flat.numel()), dtype=torch.float64).long()
        digest.update(json.dumps([name, list(parameter.shape)]).encode())
        digest.update(flat[places.to(flat.device)].cpu().float().numpy().tobytes())
    return digest.hexdigest()
