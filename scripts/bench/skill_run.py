"""Measures one skill tuning with its full evaluation: one fresh process, no launcher, on the base that ships.

    make bench NAME=skill_run

The world's pictures are drawn first and not counted: every experiment after the first finds them on disk.
Results: runs/bench/skill_run.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOAL = 45.0  # seconds on two CPU cores
SKILLS = ("counting", "clock", "pattern", "word", "texture")


def main() -> int:
    """Prints seconds by part, writes the JSON; exit code 1 when the total misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, help="data, preset, output in it are replaced (default: the demo's)")
    parser.add_argument("--skill", default="counting", choices=SKILLS, help="the skill to tune on (default: %(default)s)")
    parser.add_argument("--preset", default="full", help="what trains (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/skill_run.json"), help="file to write (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="--section.key value", help="other values for the recipe, e.g. --train.steps 60")
    options, words = parser.parse_known_args()
    folder = options.output.parent / "skill_run"
    seconds: dict[str, float] = {}

    with timed("import", seconds):
        import train.run  # noqa: F401
    from data.terrarium.world import write_world

    suite = write_world(folder / "world", skills=(options.skill,))
    accuracies = tune_and_evaluate(options, [*options.overrides, *words], suite, seconds)
    total = sum(seconds.values())
    for name, value in seconds.items():
        print(f"{name:<10}{value:>8.1f} s")
    print(f"{'total':<10}{total:>8.1f} s   goal {GOAL:.0f} s\n" + "  ".join(f"{name} {value:.2f}" for name, value in accuracies.items()))
    record = {"skill": options.skill, "preset": options.preset, "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    record |= {"goal": GOAL, "total": total, "seconds": seconds, "accuracies": accuracies}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(total > GOAL)


def tune_and_evaluate(options: argparse.Namespace, overrides: list[str], suite: Path, seconds: dict[str, float]) -> dict[str, float]:
    """Trains as the recipe says, but for data, preset, output; gives mean accuracies by group."""
    from model.build import load_pair
    from train.config import RECIPES, load_recipe
    from train.evaluate.evaluation import evaluate
    from train.evaluate.tasks import load_suite
    from train.run import train

    source = [{"path": str(suite.parent / "train" / f"{options.skill}.json")}]
    words = ["--data.sources", json.dumps(source), "--model.preset", options.preset, "--output", str(suite.parents[1] / "run")]
    with timed("recipe", seconds):
        recipe = load_recipe(options.recipe or RECIPES / "demo.yaml", [*words, *overrides])
    with timed("train", seconds):
        result = train(recipe, overwrite=True)
    with timed("load", seconds):
        model, processor = load_pair(result.checkpoint)
        questions = load_suite(suite)
    with timed("evaluate", seconds):
        evaluation = evaluate(model, processor, questions)
    return dict(evaluation["groups"])


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Writes the wall-clock seconds of its block into `seconds`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
