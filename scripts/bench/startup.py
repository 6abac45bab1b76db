"""Measures how long the command line takes to answer: its help, the help of a command, a refused recipe.

    make bench NAME=startup

Every run is a fresh process; the median is compared with the goal. Results: runs/bench/startup.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOALS = {"help": 0.3, "help of train": 0.3, "refused recipe": 0.6}  # seconds
MOST_RUNS = 1000


def main() -> int:
    """Prints a table, writes the JSON; exit code 1 when a median misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="fresh processes of each kind, at least 7 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/startup.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if not 7 <= options.runs <= MOST_RUNS:
        parser.error(f"--runs: got {options.runs}, expected 7 to {MOST_RUNS}; fewer say little")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text("model: {base: terrarium, presett: full}\n", encoding="utf-8")
        commands = {"help": (["--help"], 0), "help of train": (["train", "--help"], 0), "refused recipe": (["train", str(recipe)], 2)}
        results = {name: measure(words, code, options.runs) | {"goal": GOALS[name]} for name, (words, code) in commands.items()}
    print(f"{'seconds':<16}{'goal':>8}{'min':>8}{'median':>8}{'max':>8}")
    for name, result in results.items():
        print(f"{name:<16}" + "".join(f"{result[column]:>8.2f}" for column in ("goal", "min", "median", "max")))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"runs": options.runs, "cores": os.cpu_count(), "load_average": os.getloadavg()[0], "seconds": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(any(result["median"] > result["goal"] for result in results.values()))


def measure(words: list[str], code: int, runs: int) -> dict[str, float]:
    """Seconds of the installed `perennial` from start to exit; one run before them fills the caches.

    Raises:
        RuntimeError: The exit code is not the expected one.
    """
    command = [str(Path(sys.executable).with_name("perennial")), *words]
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        if done.returncode != code:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}, expected {code}: {done.stderr}")
    return {"min": min(seconds[1:]), "median": statistics.median(seconds[1:]), "max": max(seconds[1:])}


if __name__ == "__main__":
    sys.exit(main())
