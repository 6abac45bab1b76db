"""Where in its data a run stands, so that another process can go on at the very next row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.config import DataConfig
from data.dataset import Samples
from data.plan import Plan

EFFECTLESS = ("cache", "index_workers", "loader_workers", "max_bad_share")  # settings that change no row


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a run reads.

    Attributes:
        plan: The plan, before it was dealt out to processes.
        sources: Its sources.
        config: The `data` section.
        seed: The plan's.
        processes: Number of processes that it is dealt out to.
    """

    plan: Plan
    sources: Sequence[Samples]
    config: DataConfig
    seed: int
    processes: int


def position(reading: Reading, rows: int) -> dict[str, Any]:
    """The position behind the first `rows` rows, as JSON takes it."""
    plan, sources, config = reading.plan, reading.sources, reading.config
    rows = min(rows, plan.rows)
    settings = config.model_dump(mode="json", exclude={"sources", *EFFECTLESS})
    return {
        "seed": reading.seed,
        "processes": reading.processes,
        "epoch": _epochs(plan, rows, sources),
        "offset": rows,
        "order_sha256": plan.sha256(rows),
        "planned_rows": plan.rows,
        "batch_size": plan.batch_size,
        "settings": settings,
        "sources": [_source(one) for one in sources],
    }


def _epochs(plan: Plan, rows: int, sources: Sequence[Samples]) -> list[float]:
    """How often the samples of each source have been seen after so many rows."""
    seen = np.bincount(plan.order.positions[plan.members[: plan.bounds[rows]], 0], minlength=len(sources))
    return [round(float(count) / len(one), 4) for one, count in zip(sources, seen, strict=True)]


def check_position(saved: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Fails unless the rows behind a saved position are the first rows of the plan at hand.

    Args:
        saved: From `position`, when the run was saved.
        now: From `position` with the plan at hand, for as many rows.
        where: What holds the saved position, for the message.

    Raises:
        ValueError: Other rows would have been seen; the message names what changed: a file, a size, a setting, the seed.
    """
    changes = [
        f"{name} was {saved[key]}, is {now[key]}"
        for key, name in (("seed", "train.seed"), ("batch_size", "train.batch_size"))
        if saved[key] != now[key]
    ]
    changes += _changed_settings(saved["settings"], now["settings"])
    changes += _changed_sources(saved["sources"], now["sources"])
    if not changes and saved["order_sha256"] != now["order_sha256"]:
        rows = f"{saved['planned_rows']} rows were planned, now {now['planned_rows']}"
        changes = [rows if saved["planned_rows"] != now["planned_rows"] else "the version of the code that plans the order"]
    if changes:
        raise ValueError(
            f"{where}: step {saved['offset'] // saved['batch_size']} was not reached as this run would reach it; changed: "
            f"{'; '.join(changes)}. Give the old files and settings to go on, or train.resume: never to begin anew"
        )


def _source(one: Samples) -> dict[str, Any]:
    config = one.config.model_dump(mode="json", exclude={"licence"})
    return config | {
        "sha256": one.index.sha256,
        "bytes": sum(file.size for file in one.index.files),
        "records": one.index.records,
        "samples": len(one),
    }


def _changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"data.{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]


def _changed_sources(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[str]:
    """What differs between sources; one whose place alone has changed is the same."""
    if len(before) != len(now):
        return [f"data.sources had {len(before)} entries, has {len(now)}"]
    changes = []
    for number, (old, new) in enumerate(zip(before, now, strict=True)):
        if old["sha256"] != new["sha256"]:
            sizes = f"{old['bytes']} bytes, {old['records']} records before; {new['bytes']}, {new['records']} now"
            changes.append(f"the content of {new['path']} ({sizes})")
            continue
        changes += [
            f"data.sources.{number}.{key} was {old.get(key)}, is {new[key]}"
            for key in new
            if key not in ("path", "image_root") and old.get(key) != new[key]
        ]
    return changes
