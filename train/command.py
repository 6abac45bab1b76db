"""The `perennial train` sub-command."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial train` takes."""
    parser.add_argument("recipe", help="YAML file with the sections model, data, train, and the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="run folder to write, in place of the recipe's")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run in the output folder")
    parser.add_argument("--verify-frozen", action="store_true", help="check that every frozen tensor stays bit-identical")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --train.steps 10"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains as the recipe says; prints where the checkpoint lies."""
    from train.config import load_recipe

    options = [f"--output={arguments.output}"] if arguments.output else []
    options += ["--train.verify_frozen=true"] if arguments.verify_frozen else []
    recipe = load_recipe(arguments.recipe, [*arguments.overrides, *options]).need("model", "data", "output")

    from train.rows import tell
    from train.run import train  # torch, transformers, deepspeed: only once the recipe is known to be right

    try:
        result = train(recipe, overwrite=arguments.overwrite)
    except KeyboardInterrupt:
        kept = sorted(str(path) for path in Path(str(recipe.output)).glob("checkpoints/step-*"))
        print(f"\nkept: {', '.join(kept) or 'no checkpoint (train.save_every makes some on the way)'}", file=sys.stderr)
        raise
    tell(f"checkpoint: {result.checkpoint} ({result.seconds:.0f} s)", progress=True)
    return 0
