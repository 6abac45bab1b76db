"""Puts the demo's results over several seeds into one table, in the README and in docs/.

    for seed in 0 1 2; do perennial demo --seed $seed --output runs/demo-$seed; done
    python scripts/demo_table.py runs/demo-0 runs/demo-1 runs/demo-2

Each cell is the mean over the demos, with the smallest and the largest value.
"""

import argparse
import datetime
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- demo table -->", "<!-- /demo table -->")
COLUMNS = {
    "counting, %": ("target_after", 100, 0),
    "text, points": ("text_change", 100, 1),
    "images, points": ("visual_change", 100, 1),
    "number tokens, %": ("number_probability_after", 100, 2),
}


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Reads each demo's report.json; gives the rows of every way, and the values before tuning.

    Raises:
        FileNotFoundError: a folder has no finished demo.
        ValueError: the demos did not tune the same ways.
    """
    reports = []
    for folder in folders:
        path = folder / "report" / "report.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; run: perennial demo --output {folder}")
        reports.append(json.loads(path.read_text()))
    keys = [[(row["group"], row["name"], row["learning_rate"]) for row in report["rows"]] for report in reports]
    if any(one != keys[0] for one in keys):
        raise ValueError("the demos tuned different ways; make them with one version of the repository")
    rows = []
    for position, (group, name, rate) in enumerate(keys[0]):
        values = {key: [report["rows"][position][key] for report in reports] for key, _, _ in COLUMNS.values()}
        rows.append({"group": group, "name": name, "learning_rate": rate} | values)
    before = {key: [report["rows"][0][f"{key}_before"] for report in reports] for key in ("target", "number_probability")}
    base = {group: [report["base"]["groups"][group] for report in reports] for group in ("held_out_text", "held_out_visual")}
    return {"seeds": [report["context"]["seed"] for report in reports], "rows": rows, "before": before | base}


def markdown(found: dict[str, Any]) -> str:
    """The table; one line above it says what stood before tuning."""
    lines = [["compared at", "way", "learning rate", *COLUMNS], ["---"] * 2 + ["---:"] * (1 + len(COLUMNS))]
    for row in found["rows"]:
        cells = [spread(row[key], scale, digits, signed=key.endswith("change")) for key, scale, digits in COLUMNS.values()]
        lines.append([row["group"], row["name"], f"{row['learning_rate']:g}", *cells])
    before = found["before"]
    start = (
        f"Before tuning: counting {spread(before['target'], 100, 0)} %, text {spread(before['held_out_text'], 100, 1)} %, "
        f"images {spread(before['held_out_visual'], 100, 1)} %, number tokens {spread(before['number_probability'], 100, 2)} %."
    )
    return start + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], scale: float, digits: int, signed: bool = False) -> str:
    """Mean (smallest to largest)."""
    sign = "+" if signed else ""
    mean, low, high = (f"{scale * value:{sign}.{digits}f}" for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Writes docs/demo.json, docs/demo_frontier.png and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", type=Path, help="folders of finished demos, one for each seed")
    args = parser.parse_args()
    found = collect(args.demos)
    today = datetime.date.today().isoformat()
    found["date"] = today
    (ROOT / "docs" / "demo.json").write_text(json.dumps(found, indent=1) + "\n")
    shutil.copy(args.demos[0] / "report" / "frontier.png", ROOT / "docs" / "demo_frontier.png")
    seeds = ", ".join(str(seed) for seed in found["seeds"])
    note = f"Written by `scripts/demo_table.py` on {today} from `perennial demo --seed N`, N = {seeds}: mean (smallest to largest)."
    picture = f"![What was learned against what was lost, seed {found['seeds'][0]}](docs/demo_frontier.png)"
    block = f"{MARKS[0]}\n{note}\n{markdown(found)}\n\n{picture}\n{MARKS[1]}"
    readme = ROOT / "README.md"
    pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: block, readme.read_text()))
    print(markdown(found))


if __name__ == "__main__":
    main()
