"""The `perennial sequence` sub-command."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial sequence` takes."""
    parser.add_argument("recipe", help="YAML file with the sections model, train, sequence, and the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="folder to write, in place of the recipe's; what is finished in it is kept")
    parser.add_argument("--overwrite", action="store_true", help="do again what was done with other settings, and what follows it")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --sequence.seeds [0,1]"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs every order with every seed; prints what was learned, what was lost, where the report lies."""
    from train.config import load_recipe
    from train.sequence_plan import plan_lines

    options = [f"--output={arguments.output}"] if arguments.output else []
    recipe = load_recipe(arguments.recipe, [*arguments.overrides, *options])
    plan_lines(recipe, arguments.recipe)  # what is wrong is told before torch is imported

    from train.rows import tell
    from train.sequence import run_sequence

    try:
        result = run_sequence(recipe, overwrite=arguments.overwrite, where=arguments.recipe)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"finished tasks are kept in {recipe.output}; the same command goes on, inside a task from its last state (train.save_every)"
        ) from None
    if result.matrix is not None:
        _print_table(result.matrix)
    else:
        for (order, seed), model in result.models.items():
            tell(f"order {order}, seed {seed}: {model}", progress=True)
    tell(f"{f'report: {result.page}' if result.page else f'folder: {result.folder}'}  ({result.seconds:.0f} s)", progress=True)
    return 0


def _print_table(path: Path) -> None:
    from train import distributed
    from train.sequence_report import table

    if distributed.is_first():
        print(table(json.loads(path.read_text(encoding="utf-8"))))
