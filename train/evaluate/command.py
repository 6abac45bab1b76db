"""`perennial evaluate` together with `perennial report`: their arguments, what they print."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial evaluate`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model folder, run folder (last checkpoint), or terrarium")
    parser.add_argument("--suite", required=True, type=Path, metavar="FILE", help="suite file: YAML that lists the tasks")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write evaluation.json (default: evaluations/SUITE in the run folder)"
    )
    parser.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="questions in one pass (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="ask only the first N questions of each task")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint; prints its table and the file written."""
    from train.evaluate.tables import evaluation_table
    from train.evaluate.tasks import load_suite

    suite = load_suite(args.suite)  # before the heavy imports: a wrong suite is told at once
    folder = find_checkpoint(args.checkpoint)
    import torch

    from model.build import load_pair
    from train.evaluate.evaluation import evaluate, save

    model, processor = load_pair(folder)
    if torch.cuda.is_available():
        model = model.to("cuda")
    evaluation = evaluate(model, processor, suite, batch_size=args.batch_size, progress=not args.quiet, limit=args.limit)
    path = save(evaluation, args.output or default_output(folder, suite.name))
    print(f"{evaluation_table(evaluation)}\n\nwrote {path} ({evaluation['seconds']:.1f} s)")
    return 0


def report_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perennial report`."""
    parser.add_argument("base", type=Path, metavar="BASE", help="the model before tuning: its evaluation.json, or a folder that holds it")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, each with an evaluation of the same suite")
    parser.add_argument("--output", type=Path, default=Path("runs/report"), metavar="DIR", help="where to write (default: %(default)s)")
    parser.add_argument("--target", metavar="TASK", help="the task that was tuned for (default: the mean over all target tasks)")
    parser.add_argument("--title", default="What was learned, what was lost", help="heading of the page (default: %(default)s)")


def report_run(args: argparse.Namespace) -> int:
    """Puts evaluated runs side by side; prints the table and the page written."""
    from train.evaluate.evaluation import load
    from train.evaluate.report import render, table

    base = load(find_evaluation(args.base))
    runs = [summary(folder, args.target) for folder in args.runs]
    page = render(runs, base, args.output, title=args.title, context={"suite": base.get("suite", ""), "base": base.get("model", "")})
    print(f"{table(runs, base)}\n\nwrote {page}")
    return 0


def find_checkpoint(name: str) -> Path:
    """The model folder that a name means: a built-in one, a model folder, or a run folder's last checkpoint."""
    from data.terrarium.base import BUILT_IN, resolve

    folder = resolve(name)
    if (folder / "config.json").is_file():
        return folder
    steps = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if steps:
        return steps[-1]
    what = "holds neither config.json nor checkpoints/step-*" if folder.is_dir() else "does not exist"
    raise FileNotFoundError(f"checkpoint {name}: {folder} {what}; give a model folder, a run folder, or one of {', '.join(BUILT_IN)}")


def default_output(checkpoint: Path, suite: str) -> Path:
    """Where the evaluation of a checkpoint belongs: into its run folder, else into one of its own under runs/."""
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent / "evaluations" / suite
    return Path("runs") / checkpoint.resolve().name / "evaluations" / suite


def find_evaluation(path: Path) -> Path:
    """The evaluation file that `path` is or holds, the newest if there are several."""
    from train.evaluate.evaluation import FILE_NAME

    if path.is_file():
        return path
    found = [path / FILE_NAME] if (path / FILE_NAME).is_file() else list(path.glob(f"evaluations/*/{FILE_NAME}"))
    if not found:
        raise FileNotFoundError(f"{path} holds no {FILE_NAME}; make one with: perennial evaluate {path} --suite FILE")
    return max(found, key=lambda file: file.stat().st_mtime)


def summary(folder: Path, target: str | None = None) -> dict[str, Any]:
    """A run folder as the report wants it, see `train.evaluate.comparison`; what its files do not tell is None."""
    import yaml

    from train.evaluate.evaluation import load

    evaluation = load(find_evaluation(folder))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) if (folder / "config.yaml").is_file() else {}
    record = json.loads((folder / "run.json").read_text(encoding="utf-8")) if (folder / "run.json").is_file() else {}
    trained = record.get("trainable", {})
    return {
        "name": folder.resolve().name if folder.is_dir() else folder.stem,
        "group": "runs",
        "target_task": target,
        "preset": (config.get("model") or {}).get("preset"),
        "learning_rate": (config.get("train") or {}).get("learning_rate"),
        "batch_size": (config.get("train") or {}).get("batch_size"),
        "text_share": (config.get("data") or {}).get("text_share"),
        "steps": record.get("steps"),
        "trainable_parameters": trained.get("parameters"),
        "total_parameters": trained.get("of"),
        "seconds_train": record.get("seconds"),
        "seconds_evaluate": evaluation.get("seconds"),
        "evaluation": evaluation,
    }


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value
