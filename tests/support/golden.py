"""The recorded curve that every ZeRO stage, accumulation, layout of rows follows.

Recorded, in one process, by `python tests/support/golden.py`, after a change that is meant to alter numerics; say so in the commit.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from arranged import Step, Values, curve, values_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "golden" / "two_ranks.json"
# Eight records of each kind, twice, each time in another order: steps of one kind alone, too. Records from 8 on have no picture.
RECORDS = (0, 9, 4, 13, 8, 10, 11, 15, 1, 2, 5, 6, 12, 3, 14, 7, 15, 0, 14, 2, 1, 3, 4, 5, 13, 6, 8, 11, 7, 12, 9, 10)
BATCH = 4


def golden_steps(*, packed: bool = False) -> list[Step]:
    """The rows of each step: one record each, or the same records packed in pairs."""
    size = 2 if packed else 1
    rows = [list(RECORDS[first : first + size]) for first in range(0, len(RECORDS), size)]
    return [rows[first : first + BATCH // size] for first in range(0, len(rows), BATCH // size)]


def golden_values(folder: Path, base: Path, data: Path, *, packed: bool = False, **settings: Any) -> Values:
    """The recipe of the curve: the whole tiny LLaVA trains in fp32."""
    reading = {"packing": {"length": 256}} if packed else {}
    fixed = {"batch_size": BATCH // (2 if packed else 1), "schedule": "cosine", "warmup_share": 0.2}
    return values_of(folder, base, data, reading=reading, **fixed, **settings)


def golden() -> dict[str, list[float]]:
    """Loss and gradient norm of each step, as recorded."""
    return json.loads(FILE.read_text(encoding="utf-8"))["curve"]


def main() -> None:
    """Writes the file."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from arranged import train_arranged
    from conftest import write_data, write_tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PERENNIAL_CACHE"] = str(folder / "cache")
        write_tiny(folder / "model")
        values = golden_values(folder / "run", folder / "model", write_data(folder / "data"), zero="zero0")
        train_arranged(values, golden_steps())
        record = {"command": "python tests/support/golden.py", "curve": curve(folder / "run")}
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
