"""What `perennial train` would do, reckoned without weights."""

from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.memory import BYTES, Engine
from train.config import Recipe
from train.expected_data import Expected, look
from train.expected_memory import engine_of, reckon
from train.makers import Makers

SOME_STEPS = 1000  # for what needs a number of steps where none is known: AdaLoRA's schedule, which decides no size


def dry_run(recipe: Recipe, path: str | Path, *, gpus: int = 1, tokens_per_second: float | None = None) -> dict[str, Any]:
    """Reckons a run.

    Args:
        recipe: Read without a check of files: what is not here yet is named.
        path: Its file; recipes beside it tell what a missing model folder will hold.
        gpus: Processes that share the work.
        tokens_per_second: Speed of all of them, for hours.

    Returns:
        What JSON takes: `settings` (what differs from the defaults), `config`, `model`, `trainable`, `data`, `schedule`, `memory`, `disk`.

    Raises:
        FileNotFoundError: A file of the model section is missing that no run writes.
        ValueError: The recipe is wrong, or nothing is known of the model's sizes.
    """
    from model.architectures import on_meta
    from model.quiet import without_bars
    from model.sketch import sketch
    from train.rows import micro_batches

    assert recipe.model is not None
    if gpus < 1:
        raise ValueError(f"--gpus: got {gpus}, expected 1 or more")
    if tokens_per_second is not None and tokens_per_second <= 0:
        raise ValueError(f"--tokens-per-second: got {tokens_per_second:g}, expected a number above 0")
    micro, passes = micro_batches(recipe.train, gpus)
    makers = Makers(Path(path))
    with without_bars():
        found = sketch(recipe.model, makers.model)
        model = on_meta(found.config)
    notes = [*found.notes, *_unwritten(recipe.model, makers)]
    total = sum(parameter.numel() for parameter in model.parameters())
    expected = look(recipe, model, found.local, makers)
    manifest = _what_trains(model, recipe, expected.steps or SOME_STEPS)
    engine = engine_of(recipe, found.config, manifest.trainable_parameters, gpus=gpus, passes=passes)
    return {
        "recipe": str(path),
        "settings": recipe.model_dump(mode="json", exclude_defaults=True),
        "config": recipe.model_dump(mode="json"),
        "model": {"class": type(model).__name__, "parameters": total, "notes": notes},
        "trainable": _trainable(manifest),
        "data": {"sources": expected.sources, "notes": expected.notes},
        "schedule": _schedule(recipe, expected, (gpus, micro, passes), tokens_per_second),
        "memory": reckon(model, recipe, manifest, engine, expected),
        "disk": _disk(recipe, total, (manifest.trainable_parameters, _adapter_bytes(model, engine)), expected.steps),
    }


def _unwritten(config: ModelConfig, makers: Makers) -> list[str]:
    """Files of an assembly that a run has yet to write."""
    for name in ("projector", "chat_template"):
        file = getattr(config, name)
        if file is None or Path(file).exists():
            continue
        if name == "projector" and makers.model(file) is not None:
            return [f"{file} is not here yet: {makers.command(file)}"]
        raise FileNotFoundError(f"model.{name}: {file} does not exist; check the path (it is relative to the folder that you are in)")
    return []


def _what_trains(model: Any, recipe: Recipe, steps: int) -> Any:
    from model.tuning import choose_what_trains
    from train.optim import with_rates

    assert recipe.model is not None
    manifest, _ = choose_what_trains(model, recipe.model, steps=steps, seed=recipe.train.seed)
    return with_rates(model, manifest, recipe.train)


def _trainable(manifest: Any) -> dict[str, Any]:
    """A row for each part, learning rate and weight decay."""
    rows: dict[tuple[Any, ...], list[int]] = {}
    for tensor in manifest.tensors:
        row = rows.setdefault((tensor.group, tensor.learning_rate, tensor.weight_decay), [0, 0])
        row[0] += 1
        row[1] += tensor.count
    return {
        "preset": manifest.preset,
        "parameters": manifest.trainable_parameters,
        "of": manifest.total_parameters,
        "sha256": manifest.sha256,
        "parts": [
            {"part": part, "tensors": tensors, "parameters": count, "learning_rate": rate, "weight_decay": decay}
            for (part, rate, decay), (tensors, count) in rows.items()
        ],
    }


def _schedule(recipe: Recipe, expected: Expected, dealt: tuple[int, int, int], tokens_per_second: float | None) -> dict[str, Any]:
    steps, (gpus, micro, passes) = expected.steps, dealt
    found = {
        "steps": steps,
        "warmup_steps": None if steps is None else recipe.train.warmup_steps(steps),
        "batch_size": recipe.train.batch_size,
        "gpus": gpus,
        "micro_batch_size": micro,
        "accumulation": passes,
        "tokens": expected.tokens,
        "tokens_per_step": None if expected.tokens is None or steps is None else round(expected.tokens / steps, 1),
        "images_per_step": None if expected.images is None or steps is None else round(expected.images / steps, 2),
    }
    if tokens_per_second is not None:
        hours = None if expected.tokens is None else round(expected.tokens / tokens_per_second / 3600, 2)
        found |= {"tokens_per_second": tokens_per_second, "hours": hours}
    return found


def _adapter_bytes(model: Any, engine: Engine) -> int:
    """What a whole checkpoint holds besides its merged weights."""
    from model.adapters import is_adapted, parameters

    return BYTES[engine.precision] * sum(one.numel() for one in parameters(model)) if is_adapted(model) else 0


def _disk(recipe: Recipe, total: int, trained: tuple[int, int], steps: int | None) -> dict[str, Any]:
    """Bytes in the run folder when it holds most: checkpoints that are kept, states to go on from with one that is being written."""
    from train import masters

    train, size = recipe.train, BYTES["bf16" if recipe.train.save_dtype == "bf16" else "fp32"]
    trainable, adapters = trained
    alone = recipe.model is not None and recipe.model.method == "siamese"  # adapter and gate, beside a base that is not copied
    whole, state = size * trainable if alone else size * total + adapters, masters.BYTES * trainable
    if train.save_every is None:
        return {"checkpoint": whole, "on_the_way": 0, "checkpoints": 1, "state": 0, "states": 0, "total": whole}
    each = whole if alone or train.checkpoints == "whole" else size * trainable
    saves = None if steps is None else (steps - 1) // train.save_every
    kept = train.keep_checkpoints if saves is None else min(saves, train.keep_checkpoints or saves)
    states = train.keep_states + 1 if saves is None else min(saves, train.keep_states + 1)
    return {
        "checkpoint": whole,
        "on_the_way": each,
        "checkpoints": None if kept is None else kept + 1,
        "state": state,
        "states": states,
        "total": None if kept is None else whole + kept * each + states * state,
    }
