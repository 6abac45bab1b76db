"""Tunes the base's language model on each target skill, the tower frozen, with nothing in mind but learning.

    python scripts/learn_targets.py [--skill NAME] [--steps N] [--output FILE.json]

It shows that the tower's features suffice for every target skill, so that presets which freeze the tower are judged fairly. It exits with 1
when a skill stays below `GOAL`.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from data.terrarium.visual import TARGET_SKILLS
from data.terrarium.world import write_world
from model.build import load_pair
from train.config import make_recipe
from train.evaluate.evaluation import evaluate
from train.evaluate.tasks import load_suite
from train.run import train

GOAL = 0.80
STEPS = dict.fromkeys(TARGET_SKILLS, 600) | {"texture": 2000}  # whether a word fits what is seen is learned late, then at once
FOLDER = Path("runs/learn_targets")


def learn(skill: str, steps: int, suite: Path) -> float:
    """Accuracy on a skill's test set after tuning `llm` on its training set."""
    recipe = make_recipe(
        {
            "model": {"base": "terrarium", "preset": "llm", "attention": "eager"},
            "data": {"sources": [{"path": str(suite.parent / "train" / f"{skill}.json")}]},
            "train": {"learning_rate": 1e-3, "batch_size": 32, "steps": steps, "matmul_precision": "medium"},
            "output": str(FOLDER / skill),
        }
    )
    result = train(recipe, overwrite=True)
    whole = load_suite(suite)
    asked = replace(whole, tasks=tuple(task for task in whole.tasks if task.name == skill))
    return float(evaluate(*load_pair(result.checkpoint, attention="eager"), asked)["tasks"][skill]["accuracy"])


def main() -> int:
    """Prints a line per skill; gives 1 when one is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--skill", choices=TARGET_SKILLS, action="append", help="only this one; others in the output file stay (may be repeated)"
    )
    parser.add_argument("--steps", type=int, help=f"optimizer steps of 32 samples (default: {STEPS})")
    parser.add_argument("--output", type=Path, help="also write the accuracies as JSON")
    args = parser.parse_args()
    suite = write_world(FOLDER / "world", test_size=90, train_size=8000)
    accuracies = json.loads(args.output.read_text()) if args.skill and args.output and args.output.exists() else {}
    for skill in args.skill or TARGET_SKILLS:
        accuracies[skill] = learn(skill, args.steps or STEPS[skill], suite)
        print(
            f"{skill:10} {100 * accuracies[skill]:5.1f} %{'' if accuracies[skill] >= GOAL else f'   below {100 * GOAL:.0f} %'}", flush=True
        )
    if args.output:
        args.output.write_text(json.dumps(accuracies, indent=1) + "\n")
    return 0 if min(accuracies.values()) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
