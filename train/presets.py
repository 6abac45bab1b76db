"""`perennial presets`: what each preset trains in a model, and the memory that takes."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

STAGES = (0, 1, 2, 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial presets` takes."""
    parser.add_argument("model", help="a model folder, a config.json, terrarium, or an architecture such as qwen2.5-vl-7b")
    parser.add_argument(
        "--preset", action="append", default=[], metavar="NAME", help="also this one, e.g. 'sa_proj[8:24]+projector' (may be repeated)"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs that share the state under ZeRO (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of all tensors")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each preset; those that do not fit the model are named with the reason."""
    from data.terrarium.base import resolve
    from model.architectures import on_meta, read_config
    from model.presets import PRESETS

    model = on_meta(read_config(resolve(arguments.model)))
    rows, misfits = [], {}
    for preset in [*PRESETS, *arguments.preset]:
        try:
            rows.append(describe(model, preset, arguments.gpus))
        except ValueError as problem:
            if preset in arguments.preset:
                raise
            misfits[preset] = str(problem)
    print(json.dumps(rows, indent=1) if arguments.json else table(model, rows, arguments.gpus))
    for reason in misfits.values():
        print(f"not for this model: {reason}", file=sys.stderr)
    return 0


def describe(model: Any, preset: str, gpus: int) -> dict[str, Any]:
    """One preset: tensors, parameters, share of the model, bytes per GPU under each ZeRO stage, names.

    Raises:
        ValueError: The preset does not fit the model, or there is no GPU.
    """
    from model.memory import Engine, Numbers, per_gpu
    from model.presets import select

    chosen = select(model, preset)
    frozen = tuple(parameter.numel() for name, parameter in model.named_parameters() if name not in chosen)
    numbers = Numbers(trained=(tuple(parameter.numel() for parameter in chosen.values()),), frozen=frozen)
    total, trainable = numbers.total, numbers.trainable
    memory = {}
    for stage in STAGES:
        found = per_gpu(numbers, Engine(stage=stage, gpus=gpus)).gpu
        memory[f"zero{stage}"] = asdict(found) | {"total": found.total}
    return {
        "preset": preset,
        "tensors": len(chosen),
        "parameters": trainable,
        "share": trainable / total,
        "memory": memory,
        "names": list(chosen),
    }


def table(model: Any, rows: list[dict[str, Any]], gpus: int) -> str:
    """The rows as aligned text; memory in GiB, of a small model in MiB."""
    unit, size = ("GiB", 2**30) if max(row["memory"]["zero0"]["total"] for row in rows) >= 2**30 else ("MiB", 2**20)
    total = sum(parameter.numel() for parameter in model.parameters())
    head = ["preset", "tensors", "parameters", "share", *(f"ZeRO-{stage}" for stage in STAGES)]
    lines = [head]
    for row in rows:
        memory = [f"{row['memory'][f'zero{stage}']['total'] / size:.1f}" for stage in STAGES]
        lines.append([row["preset"], f"{row['tensors']:,}", f"{row['parameters']:,}", f"{100 * row['share']:.1f} %", *memory])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    note = (
        f"{type(model).__name__}, {total:,} parameters. ZeRO columns: {unit} on each of {gpus} GPU{'s' if gpus > 1 else ''} for weights "
        "and gradients (bf16), master weights and AdamW's states (fp32); activations come on top."
    )
    return "\n".join([note, "", *text])
