"""The `perennial distil` sub-command."""

import argparse
from pathlib import Path

KINDS = ("lora", "dora", "adalora", "ia3", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial distil` takes."""
    parser.add_argument("run", metavar="RUN", help="the siamese model: run folder (last checkpoint), or model folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write; what is finished in it is kept")
    parser.add_argument("--kind", choices=KINDS, help="adapter of the plain model; none: the preset's weights (default: the siamese's)")
    parser.add_argument(
        "--recipe", metavar="FILE", help="whose data and train sections to distil with (default: config.yaml of the siamese's run)"
    )
    parser.add_argument("--suite", type=Path, metavar="FILE", help="suite file: ask both models, and tell what distilling costs")
    parser.add_argument("--target", metavar="TASK", help="the task that was tuned for (default: the mean over all target tasks)")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N questions of each task")
    parser.add_argument("--overwrite", action="store_true", help="train again what was trained with other settings")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the run's recipe, e.g. --train.steps 400"
    )


def run(arguments: argparse.Namespace) -> int:
    """Distils a siamese model; prints where the plain one lies, and what it costs where a suite is given."""
    from train.evaluate.tasks import load_suite
    from train.student_recipe import find_siamese, plan

    idle = [name for name in ("target", "limit") if arguments.suite is None and getattr(arguments, name) is not None]
    if idle:
        raise ValueError(f"--{idle[0]} has no effect without --suite, which asks the models; leave it out, or give --suite FILE")
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit: got {arguments.limit}, expected a whole number of at least 1")
    suite = load_suite(arguments.suite) if arguments.suite is not None else None
    siamese = find_siamese(arguments.run)
    recipe = plan(siamese, arguments.output, kind=arguments.kind, recipe=arguments.recipe, overrides=arguments.overrides)

    from train import distributed
    from train.rows import tell
    from train.student import Distillation, distil  # torch, transformers, deepspeed: only once the request is known to be right
    from train.student_cost import markdown

    asked = Distillation(siamese=siamese, recipe=recipe, suite=suite, target=arguments.target, limit=arguments.limit)
    try:
        result = distil(asked, progress=not arguments.quiet, overwrite=arguments.overwrite)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what was finished is kept in {asked.folder}; the same command goes on (train.save_every)") from None
    if result.cost is not None and distributed.is_first():
        print(markdown(result.cost))
    tell(f"plain model: {result.checkpoint}", progress=True)
    return 0
