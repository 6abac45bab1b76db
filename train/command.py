"""The `perennial train` sub-command."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.config import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial train` takes."""
    parser.add_argument("recipe", help="YAML file with the sections model, data, train, and the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="run folder to write, in place of the recipe's")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run in the output folder")
    parser.add_argument("--verify-frozen", action="store_true", help="check that every frozen tensor stays bit-identical")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be trained on what, steps, memory of each GPU, disk; loads no weights"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="with --dry-run: GPUs that share the work; default: 1")
    parser.add_argument(
        "--tokens-per-second", type=float, metavar="N", help="with --dry-run: speed of all GPUs together, to reckon hours with"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: print JSON, with every setting")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --train.steps 10"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains as the recipe says; prints where the checkpoint lies."""
    from train.config import load_recipe
    from train.folders import numbered

    options = [f"--output={arguments.output}"] if arguments.output else []
    options += ["--train.verify_frozen=true"] if arguments.verify_frozen else []
    overrides = [*arguments.overrides, *options]
    recipe = load_recipe(arguments.recipe, overrides, check_files=not arguments.dry_run).need("model", "data", "output")
    if arguments.dry_run:
        return _reckon(recipe, arguments)
    idle = [name for name in ("gpus", "tokens_per_second", "json") if getattr(arguments, name)]
    if idle:
        raise ValueError(f"--{idle[0].replace('_', '-')} has no effect without --dry-run; leave it out, or add --dry-run")

    from train.rows import tell
    from train.run import train  # torch, transformers, deepspeed: only once the recipe is known to be right

    try:
        result = train(recipe, overwrite=arguments.overwrite)
    except KeyboardInterrupt:
        kept = [str(path) for part in ("checkpoints", "state") for path in numbered(Path(str(recipe.output)) / part)]
        print(f"\nkept: {', '.join(kept) or 'no checkpoint (train.save_every makes some on the way)'}", file=sys.stderr)
        raise
    tell(f"checkpoint: {result.checkpoint} ({result.seconds:.0f} s)", progress=True)
    return 0


def _reckon(recipe: "Recipe", arguments: argparse.Namespace) -> int:
    import json

    from train.dry_run import dry_run
    from train.dry_table import table

    gpus = 1 if arguments.gpus is None else arguments.gpus
    found = dry_run(recipe, arguments.recipe, gpus=gpus, tokens_per_second=arguments.tokens_per_second)
    print(json.dumps(found, indent=1, ensure_ascii=False) if arguments.json else table(found))
    return 0
