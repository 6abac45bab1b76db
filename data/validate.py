"""What is wrong with the records of a recipe's sources, as a report."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import write_json, write_text
from data.config import DataConfig
from data.dataset import Samples, check_shares
from data.pictures import Pictures
from data.problems import KINDS, REPAIRS

REPORT, QUARANTINE = "report.json", "quarantine.jsonl"


def make_report(
    sources: Sequence[Samples], config: DataConfig, pictures: Pictures, plan: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Counts what was found; says whether training would start.

    Args:
        sources: Every source, read anew.
        config: The section they stand in.
        pictures: How the model shows pictures.
        plan: Plans the run; raises a ValueError where that cannot be done.

    Returns:
        `starts` with `why_not`; `problems` (source, record, kind, message); `kinds`, `repairs` with counts and meanings; `sources`
        with records, samples, tokens; `skipped`: checks that were not made.
    """
    problems = [asdict(problem) for one in sources for problem in one.problems]
    repairs: Counter[str] = Counter()
    for one in sources:
        repairs.update(one.repairs)
    try:
        check_shares(sources, config.max_bad_share)
        if plan is not None:
            plan()
        why_not = None
    except ValueError as error:
        why_not = str(error)
    kinds = Counter(problem["kind"] for problem in problems)
    return {
        "starts": why_not is None,
        "why_not": why_not,
        "max_bad_share": config.max_bad_share,
        "max_length": config.longest,
        "records": sum(one.index.records for one in sources),
        "samples": sum(len(one) for one in sources),
        "bad_records": sum(one.bad_records for one in sources),
        "kinds": {kind: {"count": count, "meaning": KINDS[kind]} for kind, count in kinds.most_common()},
        "repairs": {name: {"count": count, "meaning": REPAIRS[name]} for name, count in repairs.most_common()},
        "skipped": skipped(sources, config, pictures),
        "sources": [_source(one) for one in sources],
        "problems": problems,
    }


def skipped(sources: Sequence[Samples], config: DataConfig, pictures: Pictures) -> list[str]:
    """Checks that were not made, with the reason."""
    found = []
    if any(one.num_images.any() for one in sources):
        found.append(
            "pixels of JPEG files that end as they should: of these only headers were read; of PNG files all checksums, others were decoded"
        )
    if not config.allow_urls and any("url_not_allowed" in one.kinds for one in sources):
        found.append("pictures given as addresses: data.allow_urls is off, so their records count as bad")
    if not pictures.needs_sizes and not pictures.none:
        found.append("sizes of pictures against the model's limits: this processor brings every picture to one size")
    found += [f"ids given twice in {one.config.path}: allowed by duplicate_ids" for one in sources if one.config.duplicate_ids == "allow"]
    return found


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Writes `report.json`, with the problems once more as lines in `quarantine.jsonl`."""
    write_text(folder / QUARANTINE, "".join(json.dumps(problem, ensure_ascii=False) + "\n" for problem in report["problems"]))
    write_json(folder / REPORT, report)


def summary(report: dict[str, Any]) -> str:
    """The report in some lines for the terminal."""
    lines = []
    for one in report["sources"]:
        tokens = (
            f"{one['tokens']['mean']:.0f} tokens on average, {one['tokens']['largest']} at most"
            if one["samples"]
            else "nothing to train on"
        )
        lines.append(f"{one['path']}: {one['records']} records, {one['bad_records']} bad, {one['samples']} samples ({tokens})")
    for title in ("kinds", "repairs"):
        lines += [f"  {one['count']:>8}  {name}: {one['meaning']}" for name, one in report[title].items()]
    lines += [f"  not checked: {one}" for one in report["skipped"]]
    lines += [f"  {problem['message']}" for problem in report["problems"][:SHOWN]]
    if len(report["problems"]) > SHOWN:
        lines.append(f"  ... {len(report['problems']) - SHOWN} more in {QUARANTINE}")
    lines.append("training would start" if report["starts"] else f"training would not start: {report['why_not']}")
    return "\n".join(lines)


SHOWN = 10  # problems in the terminal


def _source(one: Samples) -> dict[str, Any]:
    tokens = one.tokens
    return {
        "path": one.config.path,
        "format": one.config.format,
        "sha256": one.index.sha256,
        "records": one.index.records,
        "bad_records": one.bad_records,
        "samples": len(one),
        "with_images": int((one.num_images > 0).sum()),
        "images": int(one.num_images.sum()),
        "tokens": {
            "sum": int(tokens.sum()),
            "mean": round(float(tokens.mean()), 1) if len(tokens) else 0.0,
            "largest": int(tokens.max()) if len(tokens) else 0,
            "percentiles": {str(share): int(np.percentile(tokens, share)) for share in (50, 90, 99)} if len(tokens) else {},
        },
    }
