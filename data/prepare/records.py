"""From a converter's records to a JSON file: sampled, with ids of their own, without those whose picture is missing."""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from data.atomic import write_lines
from data.conversation import IMAGE_MARK
from data.prepare.spec import Record
from data.prepare.work import Work

Item = TypeVar("Item")


def ask(identity: str, image: str, question: str, answer: str, **more: Any) -> Record:
    """A record of one picture, one question, one answer; the picture stands before the question, as in LLaVA's own files."""
    turns = [{"from": "human", "value": f"{IMAGE_MARK}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": identity, "image": image, "conversations": turns} | more


def sampled(items: Iterable[Item], key: Callable[[Item], str], work: Work) -> Iterable[Item]:
    """Of many items those `work.limit` that the seed chooses, in their own order; all without a limit."""
    if work.limit is None:
        return items
    chosen = heapq.nsmallest(work.limit, enumerate(items), key=lambda pair: (work.fraction(key(pair[1])), pair[0]))
    return [item for _, item in sorted(chosen, key=lambda pair: pair[0])]


def unique(records: Iterable[Record], seen: set[str], work: Work) -> Iterator[Record]:
    """Gives repeated ids an ending "#2", "#3", and counts them; `seen` holds the ids used so far."""
    times: dict[str, int] = {}
    for record in records:
        identity = base = str(record["id"])
        while identity in seen:
            times[base] = times.get(base, 1) + 1
            identity = f"{base}#{times[base]}"
        work.counts["repeated ids, made unique"] += identity != base
        seen.add(identity)
        yield record | {"id": identity}


def with_pictures(records: Iterable[Record], work: Work) -> Iterator[Record]:
    """The records whose pictures are on disk; the others are left out under the folder that lacks them."""
    for record in records:
        lacking = [image for image in images_of(record) if not (work.root / image).is_file()]
        if not lacking:
            yield record
        for image in lacking:
            work.leave_out(f"picture missing in {Path(image).parts[0]}", f"{record['id']}: {image}")


def images_of(record: Record) -> list[str]:
    """The paths of a record's pictures."""
    value = record.get("image")
    return [] if not value else value if isinstance(value, list) else [value]


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes a JSON list, one record a line, that appears whole or not at all; gives the number of records."""
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for count, record in enumerate(records, start=1):
            yield ("[\n" if count == 1 else ",\n") + json.dumps(record, ensure_ascii=False, allow_nan=False)
        yield "\n]\n" if count else "[]\n"

    write_lines(path, lines())
    return count
