"""What each companion of the siamese gate writes for a value of its knob."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.adapter_points import describe, is_adapter, is_linear, join_adapters, scale_adapter
from model.architectures import on_meta
from model.interpolate import holds_exactly, interpolate, mixed
from model.lines import factors, lines
from train.tuned import Trained, Tuned, find

Write = Callable[[float, Path], Path]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The models that a knob leads through.

    Attributes:
        base: Folder of the model before tuning.
        tuned: Folder of the tuned model.
        write: Writes the model for a value into a folder, gives that.
        ends: Values whose model is "base" or "tuned" itself, number by number.
    """

    base: Path
    tuned: Path
    write: Write
    ends: Mapping[float, str] = field(default_factory=dict)


def wise_ft(run: str, against: str | None, work: Path) -> Line:
    """WiSE-FT (arXiv 2109.01903): (1 - alpha) × base + alpha × tuned.

    Whole models are interpolated shard by shard. A folder of what was trained alone gives such folders: LoRA, AdaLoRA and IA3 are scaled,
    which is the same; DoRA, which is not linear, is laid on its base first. Against another adapter of the same base, ranks are joined.

    Args:
        run: The tuned model, see `train.tuned.find`.
        against: The other end: a model, or the folder of an adapter; None: the base.
        work: Folder for what has to be made on the way; the caller removes it.
    """
    if against is not None and is_adapter(Path(against)):
        return _between_adapters(find(run), Path(against), work)
    tuned = find(run, against)
    if _stays_apart(tuned):
        return Line(
            base=tuned.base(work),
            tuned=tuned.folder,
            write=lambda alpha, output: _scaled(tuned.trained, lambda _: alpha, output),
            ends={0.0: "base", 1.0: "tuned"},
        )
    before, after = tuned.base(work), tuned.whole(work)
    ends = {1.0: "tuned"} | ({0.0: "base"} if holds_exactly(after, before) else {})
    return Line(base=before, tuned=after, write=lambda alpha, output: interpolate(before, after, alpha, output), ends=ends)


def lines_of(run: str, against: str | None, work: Path, last: float) -> Line:
    """LiNeS (arXiv 2410.17146): the update scaled from alpha in the first layer to `last` in the last; `model.lines.factors` says how.

    Args:
        run: As of `wise_ft`; adapters as well.
        against: The base.
        work: As of `wise_ft`.
        last: Factor of the last layer.
    """
    tuned = find(run, against)
    ends = {last: "tuned" if last else "base"} if last in (0, 1) else {}
    if _stays_apart(tuned):

        def write(alpha: float, output: Path) -> Path:
            from transformers import AutoConfig

            return _scaled(tuned.trained, factors(on_meta(AutoConfig.from_pretrained(tuned.folder)), alpha, last), output)

        return Line(base=tuned.base(work), tuned=tuned.folder, write=write, ends=ends)
    before, after = tuned.base(work), tuned.whole(work)
    exact = last != 0 or holds_exactly(after, before)
    return Line(
        base=before,
        tuned=after,
        write=lambda alpha, output: lines(before, after, alpha, last, output),
        ends=ends if exact else {},
    )


def lora_scale(run: str, against: str | None, work: Path) -> Line:
    """An adapter whose update is `factor` times as large, see `model.adapter_points`; what trained whole beside it stays as tuned.

    Args:
        run: A tuned model with an adapter, see `train.tuned.find`.
        against: The base.
        work: As of `wise_ft`.
    """
    tuned = find(run, against)
    adapter = _adapter_of(tuned)

    def write(factor: float, output: Path) -> Path:
        trained = tuned.trained
        return trained.write(output, lambda folder: scale_adapter(adapter, lambda _: factor, folder), trained.after)

    # From a merged checkpoint the adapter is merged again here, which rounds otherwise.
    return Line(base=tuned.base(work), tuned=tuned.folder, write=write, ends={1.0: "tuned"} if tuned.is_partial else {})


def mix_logits(run: str, against: str | None, work: Path) -> Line:
    """Base beside adapter with a fixed mix of their logits: `share` of the base's, the rest of the tuned model's.

    Args:
        run: A tuned model with an adapter, see `train.tuned.find`.
        against: The base.
        work: As of `wise_ft`.
    """
    tuned = find(run, against)
    adapter, trained = _adapter_of(tuned), tuned.trained
    if trained.after:
        name = next(iter(trained.after))
        raise ValueError(
            f"{tuned.folder}: {len(trained.after)} tensors trained whole beside the adapter, such as {name}, so base and tuned "
            "model cannot share one set of weights; give a run whose preset names language layers alone, or use wise-ft"
        )

    def write(share: float, output: Path) -> Path:
        gate = {"kind": "fixed", "share": share}
        return trained.write(output, lambda folder: scale_adapter(adapter, lambda _: 1.0, folder), {}, {"method": "siamese", "gate": gate})

    return Line(base=tuned.base(work), tuned=tuned.folder, write=write)


def _stays_apart(tuned: Tuned) -> bool:
    """Whether points are written as what was trained alone."""
    return tuned.is_partial and tuned.own and (tuned.adapter is None or is_linear(tuned.adapter))


def _scaled(trained: Trained, factor_of: Callable[[str], float], output: Path) -> Path:
    """All that was trained, scaled by its tensor's factor."""
    adapter = trained.adapter
    whole = {name: mixed(trained.before[name], after, factor_of(name)) for name, after in trained.after.items()}
    if adapter is None:
        return trained.write(output, None, whole)
    return trained.write(output, lambda folder: scale_adapter(adapter, lambda module: factor_of(f"{module}.weight"), folder), whole)


def _between_adapters(tuned: Tuned, against: Path, work: Path) -> Line:
    """WiSE-FT from another adapter of the same base to this one."""
    second, other, trained = _adapter_of(tuned), find(str(against.parent)).trained, tuned.trained
    one, two = describe(against), describe(second)
    if {one["kind"], two["kind"]} != {"lora"}:
        raise ValueError(
            f"{against} is a {one['kind']}, {second} a {two['kind']}; only LoRAs can be joined; give the merged models (their "
            "checkpoints) instead"
        )
    if other.base["fingerprint"] != trained.base["fingerprint"]:
        raise ValueError(f"{against} was trained from another base than {second}; give the merged models (their checkpoints) instead")
    if other.after.keys() != trained.after.keys():
        name = min(other.after.keys() ^ trained.after.keys())
        raise ValueError(
            f"{name} trained whole beside only one of {against} and {second}; give the merged models (their checkpoints) instead"
        )

    def write(alpha: float, output: Path) -> Path:
        whole = {name: mixed(other.after[name], after, alpha) for name, after in trained.after.items()}
        section = {0.0: one, 1.0: two}.get(alpha, {"kind": "lora", "rank": one["rank"] + two["rank"]})
        return trained.write(output, lambda folder: join_adapters(against, second, alpha, folder), whole, {"adapter": section})

    base = work / "base"
    return Line(base=base if base.exists() else write(0.0, base), tuned=tuned.folder, write=write)


def _adapter_of(tuned: Tuned) -> Path:
    if tuned.adapter is None:
        raise ValueError(f"{tuned.folder} holds no adapter; this command scales adapters, wise-ft and lines take models of every kind")
    return tuned.adapter


COMPANIONS: Mapping[str, Any] = {"wise-ft": wise_ft, "lora-scale": lora_scale, "lines": lines_of, "mix-logits": mix_logits}
"""Command -> what gives its line."""
