"""The `perennial validate` sub-command."""

import argparse
import sys
from pathlib import Path

from train import request

STARTS, STARTS_NOT = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial validate` takes."""
    request.add_arguments(parser)
    parser.add_argument("--output", metavar="DIR", help="write report.json and quarantine.jsonl there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Reads every record once; prints what is wrong; 0 where training would start, 1 where it would not."""
    recipe = request.read_request(arguments)
    assert recipe.data is not None
    assert recipe.model is not None

    import json

    from data.dataset import load_sources
    from data.pictures import pictures_of
    from data.validate import make_report, summary, write_report
    from model.build import load_processor
    from model.processor import tokenizer_of
    from train.rows import plan_order

    processor = load_processor(recipe.model)
    pictures = pictures_of(processor)
    sources = load_sources(recipe.data, tokenizer_of(processor), pictures, seed=recipe.train.seed, fresh=True, progress=sys.stderr.isatty())

    def plan() -> None:
        plan_order(sources, recipe, progress=False)

    report = make_report(sources, recipe.data, pictures, plan)
    if arguments.output is not None:
        write_report(report, Path(arguments.output))
    print(json.dumps(report, indent=2, ensure_ascii=False) if arguments.json else summary(report))
    return STARTS if report["starts"] else STARTS_NOT
