"""A dry run as text."""

from collections.abc import Iterator, Sequence
from typing import Any

UNKNOWN = "unknown"


def table(found: dict[str, Any]) -> str:
    """What `train.dry_run.dry_run` gives, for people."""
    blocks = [_settings, _model, _data, _schedule, _memory, _disk]
    return "\n\n".join("\n".join(block(found)) for block in blocks)


def _settings(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['recipe']}: settings that differ from the defaults (all of them: --json)"
    yield from _columns([(path, value) for path, value in _leaves(found["settings"])])


def _model(found: dict[str, Any]) -> Iterator[str]:
    model, trains = found["model"], found["trainable"]
    yield f"{model['class']}, {model['parameters']:,} parameters; {trains['preset']} trains {trains['parameters']:,} of {trains['of']:,}"
    yield from (f"  {note}" for note in model["notes"])
    head = ("part", "tensors", "parameters", "learning rate", "weight decay")
    rows = [
        (one["part"], f"{one['tensors']:,}", f"{one['parameters']:,}", f"{one['learning_rate']:g}", f"{one['weight_decay']:g}")
        for one in trains["parts"]
    ]
    yield from _columns([head, *rows], numbers=True)


def _data(found: dict[str, Any]) -> Iterator[str]:
    yield "data"
    for one in found["data"]["sources"]:
        words = [f"{one[name]:,} {name.replace('_', ' ')}" for name in ("records", "samples", "left_out") if name in one]
        words += [f"{one['epochs']:.2f} epochs"] if "epochs" in one else []
        words += [f"not read: {one['not_read']}" if "records" in one else one["not_read"]] if "not_read" in one else []
        yield f"  {one['path']}: {', '.join(words)}"
    yield from (f"  {note}" for note in found["data"]["notes"])


def _schedule(found: dict[str, Any]) -> Iterator[str]:
    one = found["schedule"]
    dealt = f"{one['micro_batch_size']} (micro batch) x {one['accumulation']} (accumulation) x {one['gpus']} (GPUs)"
    rows = [
        ("steps", _number(one["steps"])),
        ("warm-up steps", _number(one["warmup_steps"])),
        ("rows of a step", f"{one['batch_size']} = {dealt}"),
        ("tokens of a step", _number(one["tokens_per_step"])),
        ("pictures of a step", _number(one["images_per_step"])),
        ("tokens", _number(one["tokens"])),
    ]
    if "hours" in one:
        rows.append((f"hours at {one['tokens_per_second']:,g} tokens/s", _number(one["hours"])))
    yield "steps"
    yield from _columns(rows)


def _memory(found: dict[str, Any]) -> Iterator[str]:
    one = found["memory"]
    rows = [(name, _size(one["gpu"][name])) for name in ("weights", "gradients", "optimizer")]
    rows += [("teachers", _size(one["teachers"]))] if one["teachers"] else []
    rows += [
        ("together", _size(one["exact"])),
        ("activations, estimated", _size(one["activations_estimated"])),
        ("with activations, estimated", _size(one["with_activations_estimated"])),
    ]
    rows += [(f"buffer: {name}", f"up to {_size(size)}") for name, size in one["buffers"].items()]
    rows += [(f"in the host's memory: {name}", _size(size)) for name, size in one["host"].items() if size]
    yield f"memory of each GPU, {one['zero']}, {one['precision']}"
    yield from _columns(rows)


def _disk(found: dict[str, Any]) -> Iterator[str]:
    one = found["disk"]
    rows = [("last checkpoint", _size(one["checkpoint"]))]
    if one["states"]:
        others = "all others" if one["checkpoints"] is None else f"{one['checkpoints'] - 1} others"
        rows += [(f"{others}, each", _size(one["on_the_way"])), (f"{one['states']} states to go on from, each", _size(one["state"]))]
    total = UNKNOWN if one["total"] is None else f"at most {_size(one['total'])}"
    yield f"disk: {total}"
    yield from _columns(rows)


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted paths with their values."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if pairs is None or not values or (isinstance(values, list) and not isinstance(values[0], dict)):
        yield path, str(values)
        return
    for name, value in pairs:
        yield from _leaves(value, f"{path}.{name}" if path else str(name))


def _columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> Iterator[str]:
    """Aligned rows, indented; numbers stand at the right of their columns."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if numbers:
            cells[1:] = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield f"  {'  '.join(cells)}".rstrip()


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _size(value: int) -> str:
    unit, size = next((pair for pair in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if value >= pair[1]), ("bytes", 1))
    return f"{value / size:,.1f} {unit}" if size > 1 else f"{value:,} {unit}"
