"""`perennial prepare`: fetches a public data set, writes it down as LLaVA JSON."""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial prepare` takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the data set; --list shows all")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the prepared data set")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="folder with files that are already there")
    parser.add_argument("--seed", type=int, default=0, help="chooses everything that is drawn (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="records of each split at most (default: all)")
    parser.add_argument("--list", action="store_true", help="show names, sizes, licences")
    parser.add_argument("--dry-run", action="store_true", help="show what would be fetched, whence, where to; fetch nothing")


def run(arguments: argparse.Namespace) -> int:
    """Prepares the data set; prints what was written and what was left out.

    Raises:
        ValueError: No such data set, or the request does not fit together.
        RuntimeError: Something could not be fetched; what was, is kept.
        KeyboardInterrupt: With a message: the same command goes on.
    """
    from data.prepare import describe
    from data.prepare.job import prepare
    from data.prepare.spec import Request
    from data.prepare.table import SPECS, find

    if arguments.list:
        print(describe.table(SPECS.values()))
        return 0
    if arguments.name is None:
        raise ValueError(f"say which data set: {', '.join(SPECS)}; perennial prepare --list shows sizes and licences")
    spec = find(arguments.name)
    if arguments.output is None and not arguments.dry_run:
        raise ValueError(f"say where to: perennial prepare {spec.name} --output DIR (needs {describe.amount(spec.disk)} on disk)")
    if arguments.source is not None and not arguments.source.is_dir():
        raise ValueError(f"--from {arguments.source} is no folder; give the folder that holds the files")
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}, expected a number of records from 1 up; leave it away for all")
    output = arguments.output or Path(spec.name)
    request = Request(output=output, source=arguments.source, seed=arguments.seed, limit=arguments.limit)
    if arguments.dry_run:
        print(describe.plan(spec, request))
        return 0
    try:
        print(told(prepare(spec, request), output))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("what was fetched is kept; the same command goes on") from interrupt
    return 0


def told(summary: dict[str, Any], output: Path) -> str:
    """The summary in a few lines."""
    lines = [f"{output / one['file']}: {one['records']:,} records, {one['pictures']:,} pictures" for one in summary["splits"].values()]
    lines += [f"left out: {count:,} ({reason})" for reason, count in summary["left_out"].items()]
    lines += [f"{name}: {count:,}" for name, count in summary["counts"].items()]
    names = f"; left-out names in {output / summary['left_out_names']}" if summary["left_out_names"] else ""
    return "\n".join(
        [*lines, f"licence: {summary['licence']}. {summary['licence_notes']}", f"all of it in {output / 'prepare.json'}{names}"]
    )
