"""The comparison's records as products take them, and what trains where a product leaves that to its user."""

import json
import re
from pathlib import Path
from typing import Any

ROLES = {"human": "user", "gpt": "assistant"}
TRAINS = {
    "llm+projector": r"model\.language_model\.|model\.multi_modal_projector\.|lm_head\.",
    "sa_proj": r"model\.language_model\..*\.self_attn\.[qkvo]_proj\.",
}


def conversations(folder: Path) -> list[dict[str, Any]]:
    """Each record as `messages` of plain text and the paths of its `images`, the picture's place left out."""
    return [
        {
            "messages": [
                {"role": ROLES[turn["from"]], "content": turn["value"].removeprefix("<image>")} for turn in record["conversations"]
            ],
            "images": [str(folder / record["image"])] if "image" in record else [],
        }
        for record in json.loads((folder / "llava.json").read_text(encoding="utf-8"))
    ]


def freeze(model: Any, trains: str) -> None:
    """Leaves a gradient to nothing but the tensors of `TRAINS`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.match(TRAINS[trains], name) is not None)
