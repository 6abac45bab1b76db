"""`perennial wise-ft`, `lora-scale`, `lines`, `mix-logits`: their arguments, what they print."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.points import Line
    from train.sweep import Sweep

QUARTERS = "0,0.25,0.5,0.75,1"


def wise_ft_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial wise-ft`."""
    _shared(parser, "the other end: model, run folder, or a LoRA's adapter folder (default: what the model was tuned from)")
    _knob(parser, "wise-ft", "alpha", QUARTERS, 1, "shares of the tuned model")


def lora_scale_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial lora-scale`."""
    _shared(parser)
    _knob(parser, "lora-scale", "factor", "0,0.5,1,1.5", math.inf, "factors of the adapter's update")


def lines_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial lines`."""
    _shared(parser)
    _knob(parser, "lines", "alpha", QUARTERS, math.inf, "factors of the first layer's update; layers between have factors between")
    parser.add_argument("--last", type=_number, default=1.0, metavar="FACTOR", help="factor of the last layer's update (default: 1)")


def mix_logits_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial mix-logits`."""
    _shared(parser)
    _knob(parser, "mix-logits", "share", QUARTERS, 1, "shares of the base in the mix")


def wise_ft_run(arguments: argparse.Namespace) -> int:
    """Runs `perennial wise-ft`."""
    return _run(arguments, {})


def lora_scale_run(arguments: argparse.Namespace) -> int:
    """Runs `perennial lora-scale`."""
    return _run(arguments, {})


def lines_run(arguments: argparse.Namespace) -> int:
    """Runs `perennial lines`."""
    return _run(arguments, {"last": arguments.last})


def mix_logits_run(arguments: argparse.Namespace) -> int:
    """Runs `perennial mix-logits`."""
    return _run(arguments, {})


def _shared(parser: argparse.ArgumentParser, against: str = "the base (default: what the model was tuned from)") -> None:
    parser.add_argument("run", metavar="RUN", help="the tuned model: run folder (last checkpoint), or model folder")
    parser.add_argument("--against", metavar="BASE", help=against)
    parser.add_argument("--suite", type=Path, metavar="FILE", help="suite file: YAML that lists the tasks")
    parser.add_argument(
        "--dev-suite",
        type=Path,
        metavar="FILE",
        help="another suite to choose the value on; a value chosen on the suite that is reported flatters the result",
    )
    parser.add_argument("--target", metavar="TASK", help="the task that was tuned for (default: the mean over all target tasks)")
    parser.add_argument(
        "--rule", type=_number, default=1.0, metavar="POINTS", help="points of retention that the chosen value may lose (default: 1)"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="ask only the first N questions of each task")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: sweeps/COMMAND in the run folder)")
    parser.add_argument("--keep", action="store_true", help="keep the model of every value that is neither base nor tuned model itself")
    parser.add_argument("--write", type=_number, metavar="VALUE", help="write the model for one value to --output, ask nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _knob(parser: argparse.ArgumentParser, command: str, knob: str, values: str, most: float, what: str) -> None:
    parser.add_argument(
        f"--{knob}", dest="values", type=_numbers, default=_numbers(values), metavar="LIST", help=f"{what} (default: {values})"
    )
    parser.set_defaults(command=command, knob=knob, most=most)


def _run(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    wanted = arguments.values if arguments.write is None else (arguments.write,)
    for value in wanted:
        if not 0 <= value <= arguments.most:
            most = "" if arguments.most == math.inf else f" to {arguments.most:g}"
            raise ValueError(f"{arguments.knob}: got {value:g}, expected numbers from 0{most or ' on'}")
    if arguments.write is not None:
        return _write(arguments, settings)
    if arguments.suite is None:
        raise ValueError("--suite is missing: give --suite FILE to ask every point, or --write VALUE --output DIR to write one model")
    return _sweep(arguments, settings)


def _write(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    idle = [name for name in ("suite", "dev_suite", "target", "limit", "keep") if getattr(arguments, name)]
    if idle:
        raise ValueError(f"--{idle[0].replace('_', '-')} has no effect with --write, which asks nothing; leave one of them out")
    if arguments.output is None:
        raise ValueError("--output is missing: --write VALUE writes one model folder; say where with --output DIR")
    if arguments.output.exists():
        raise ValueError(f"output: {arguments.output} exists; remove it, or give another folder")
    with _work_folder(arguments.output.with_name(f".{arguments.output.name}.work")) as work:
        line = _line(arguments, settings, work)
        print(f"wrote {line.write(arguments.write, arguments.output)}")
    return 0


def _sweep(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    from train.evaluate.command import find_checkpoint
    from train.evaluate.tasks import load_suite

    suites = {"suite": load_suite(arguments.suite)}  # before the heavy imports: a wrong suite is told at once
    if arguments.dev_suite is not None:
        suites["dev"] = load_suite(arguments.dev_suite)
    folder = arguments.output or _default_output(find_checkpoint(arguments.run), arguments.command)

    from train.config import make_recipe
    from train.folders import only_writer
    from train.sequence import evaluator
    from train.sweep import Sweep, markdown, run_sweep

    sweep = Sweep(
        command=arguments.command,
        knob=arguments.knob,
        values=arguments.values,
        settings=settings,
        folder=folder,
        suites=suites,
        target=arguments.target,
        rule=arguments.rule,
        limit=arguments.limit,
        keep=arguments.keep,
    )
    with only_writer(folder), _work_folder(folder / ".work") as work:
        line = _line(arguments, settings, work)
        ask = evaluator(make_recipe({"model": {"base": str(line.base)}}), not arguments.quiet)
        try:
            found = run_sweep(sweep, line, ask, progress=not arguments.quiet)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what was evaluated is kept in {folder}; the same command goes on") from None
    print(f"{markdown(found)}\n\n{_what_was_written(sweep)}")
    return 0


def _line(arguments: argparse.Namespace, settings: dict[str, Any], work: Path) -> "Line":
    from train.points import COMPANIONS

    line: Line = COMPANIONS[arguments.command](arguments.run, arguments.against, work, **settings)
    return line


def _what_was_written(sweep: "Sweep") -> str:
    from train.sweep import FIGURE, RESULT, TABLE

    return f"wrote {', '.join(str(sweep.folder / name) for name in (RESULT, FIGURE, TABLE))}"


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A place for what has to be made on the way; nothing of it stays."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _default_output(checkpoint: Path, command: str) -> Path:
    """Into the model's run folder, else into one of its own under runs/."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else Path("runs") / checkpoint.resolve().name
    return run / "sweeps" / command


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers in rising order, each once."""
    return tuple(sorted({_number(word) for word in text.split(",")}))


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value
