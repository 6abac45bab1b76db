"""The `perennial preview` sub-command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train import request

if TYPE_CHECKING:
    from data.dataset import MixedDataset, Samples
    from train.config import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial preview` takes."""
    request.add_arguments(parser)
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="rows to show, from the first on (8); packed rows hold several samples"
    )
    parser.add_argument("--source", type=int, metavar="NUMBER", help="show samples of this entry of data.sources alone, counted from 0")
    parser.add_argument("--output", metavar="DIR", help="write preview.html, preview.json, length_histogram.png there")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Plans as `perennial train` does; shows the first rows of that plan."""
    recipe = request.read_request(arguments)
    assert recipe.data is not None
    assert recipe.model is not None
    _check(arguments, len(recipe.data.sources))

    import json

    from data.dataset import load_sources
    from data.pictures import pictures_of
    from data.preview import Showing, describe, numbers
    from data.preview_page import render_text, write_preview
    from model.build import load_processor
    from model.processor import tokenizer_of
    from train.rows import layout_of_rows, micro_batches

    processor = load_processor(recipe.model)
    pictures, tokenizer, layout = pictures_of(processor), tokenizer_of(processor), layout_of_rows(recipe)
    micro, _ = micro_batches(recipe.train, processes=1)
    sources = load_sources(recipe.data, tokenizer, pictures, seed=recipe.train.seed, progress=sys.stderr.isatty())
    dataset = planned(recipe, sources)
    showing = Showing(rows=arguments.samples, source=arguments.source, micro_batch=micro, layout=layout)
    description = describe(dataset, sources, recipe.data, tokenizer, pictures, showing)
    if arguments.json:
        print(json.dumps(numbers(description), indent=2, ensure_ascii=False))
    else:
        print(render_text(description, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if arguments.output is not None:
        print(f"page: {write_preview(description, Path(arguments.output))}", file=sys.stderr)
    return 0


def planned(recipe: "Recipe", sources: "Sequence[Samples]") -> "MixedDataset":
    """The rows that `perennial train` would read in one process, planned without the sources of which nothing is left.

    Raises:
        ValueError: No plan can be made, though the records are good.
    """
    from data.dataset import check_shares
    from train.rows import deal_out, plan_order

    assert recipe.data is not None
    usable = [one for one in sources if len(one)]
    try:
        return deal_out(recipe, plan_order(usable, recipe, progress=False)) if usable else _nothing(recipe)
    except ValueError:
        try:
            check_shares(sources, recipe.data.max_bad_share)
        except ValueError:
            return _nothing(recipe)  # the description says why
        raise


def _nothing(recipe: "Recipe") -> "MixedDataset":
    """A plan of no rows."""
    import numpy as np

    from data.dataset import MixedDataset
    from data.mixture import Order
    from data.plan import Plan

    order = Order(positions=np.empty((0, 2), np.int32), epochs=())
    return MixedDataset(
        (), Plan(order=order, bounds=np.zeros(1, np.int64), members=np.empty(0, np.int64), batch_size=recipe.train.batch_size)
    )


def _check(arguments: argparse.Namespace, sources: int) -> None:
    if arguments.samples < 0:
        raise ValueError(f"--samples {arguments.samples}; expected a number of rows from 0 up")
    if arguments.source is not None and not 0 <= arguments.source < sources:
        raise ValueError(f"--source {arguments.source}; data.sources has {sources}, counted from 0: give 0 to {sources - 1}")
