"""The demo's learning rates, chosen by a committed sweep at matched accuracy on the target skill."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "demo_rates.yaml"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates: one for each preset, and one that all presets share."""

    matched: dict[str, float]
    fixed: float


def load_rates(path: Path = FILE) -> Rates:
    """Reads what `scripts/sweep_demo_rates.py` wrote."""
    sweep = yaml.safe_load(path.read_text())
    return Rates(matched=choose(sweep["rows"], sweep["goal"]), fixed=sweep["fixed"])


def choose(rows: list[dict[str, Any]], goal: float) -> dict[str, float]:
    """The smallest learning rate of each preset whose target accuracy reaches `goal`, else its most accurate one.

    Args:
        rows: one for each run: `preset`, `learning_rate`, `target` (accuracy from 0 to 1).
        goal: the accuracy at which presets are compared.
    """
    chosen = {}
    for preset in dict.fromkeys(row["preset"] for row in rows):
        tried = sorted((row for row in rows if row["preset"] == preset), key=lambda row: row["learning_rate"])
        enough = [row for row in tried if row["target"] >= goal]
        chosen[preset] = (enough[0] if enough else max(tried, key=lambda row: row["target"]))["learning_rate"]
    return chosen
