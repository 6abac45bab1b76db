"""Where data comes from, as far as the files beside it tell."""

import json
from pathlib import Path
from typing import Any

TOLD_BY = ("manifest.json", "prepare.json")  # written by `perennial generate` and `perennial prepare`
LEFT_OUT = ("layers", "files", "left_out")  # long lists


def provenance(path: str) -> dict[str, Any] | None:
    """What stands beside a source: of a grown tree its model and plan, of a prepared data set its name and licence; None without."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for name in TOLD_BY:
        try:
            told = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(told, dict):
            return {"file": name} | {key: value for key, value in told.items() if key not in LEFT_OUT}
    return None
