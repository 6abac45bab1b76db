"""Prepares a data set in five steps, each of which goes on where an earlier call stopped."""

import hashlib
import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.prepare.records import images_of, sampled, unique, with_pictures, write_records
from data.prepare.spec import DatasetSpec, Record, RemoteFile, Request
from data.prepare.store import Store
from data.prepare.unpack import unpack
from data.prepare.work import Work

SUMMARY, LEFT_OUT = "prepare.json", "left_out.json"


def prepare(spec: DatasetSpec, request: Request) -> dict[str, Any]:
    """Fetches, unpacks, converts, writes down; gives the content of `prepare.json`.

    Raises:
        ValueError: The folder holds another data set, or files must be given by hand that are not.
        RuntimeError: Files could not be fetched or are damaged; what was done is kept.
    """
    done = finished(spec, request)
    if done:
        request.say(f"{spec.name} is already prepared in {request.output}; nothing to do")
        return done
    if spec.by_hand and request.source is None:
        raise ValueError(f"{spec.name} cannot be fetched. {spec.by_hand} Pass its folder: --from DIR")
    _room(spec, request)
    store = Store(spec, request)
    files = {file.name: paths for file in spec.files if (paths := obtain(file, store, request)) is not None}
    work = Work(
        root=request.output,
        files=files,
        source=request.source,
        seed=request.seed,
        limit=request.limit,
        progress=request.progress,
    )
    if spec.fetch:
        spec.fetch(work)
    splits = write_splits(spec, work)
    if work.left_out:
        write_json(request.output / LEFT_OUT, work.left_out)
    else:
        (request.output / LEFT_OUT).unlink(missing_ok=True)
    summary = describe(spec, request, work) | {"splits": splits, "files": store.records()}
    write_json(request.output / SUMMARY, summary)
    return summary


def finished(spec: DatasetSpec, request: Request) -> dict[str, Any] | None:
    """The summary of an earlier call that did the same; None if there is work to do.

    Raises:
        ValueError: The folder holds another data set.
    """
    path = request.output / SUMMARY
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if summary["name"] != spec.name:
        raise ValueError(f"{request.output} holds {summary['name']}, not {spec.name}; give another folder: --output DIR")
    whole = all(_bytes(request.output / split["file"]) == split["bytes"] for split in summary["splits"].values())
    return summary if whole and summary["key"] == key(spec, request) else None


def key(spec: DatasetSpec, request: Request) -> str:
    """What the written files depend on."""
    return hashlib.sha256(json.dumps([spec.name, spec.version, request.seed, request.limit]).encode()).hexdigest()[:16]


def obtain(file: RemoteFile, store: Store, request: Request) -> tuple[Path, ...] | None:
    """Gets a file and unpacks it if it is an archive; gives its local paths, None for an archive that is not needed any more."""
    if file.unpack is None:
        return store.get(file)
    gives = file.unpack.gives
    if store.recall("unpacked", file.name) is not None and (request.output / gives).exists():
        return None
    mine = request.source / gives if request.source and gives else None
    if mine is not None and mine.is_dir() and not (request.output / gives).exists():
        (request.output / gives).parent.mkdir(parents=True, exist_ok=True)
        (request.output / gives).symlink_to(mine.resolve(), target_is_directory=True)
        request.say(f"{gives}: linked to {mine}")
        store.remember("unpacked", file.name, {"linked": str(mine.resolve())})
        return None
    paths = store.get(file)
    count = sum(unpack(path, request.output, file.unpack, progress=request.progress) for path in paths)
    store.remember("unpacked", file.name, {"files": count})
    return paths


def write_splits(spec: DatasetSpec, work: Work) -> dict[str, dict[str, Any]]:
    """Writes one JSON file for each split; gives their counts."""
    from tqdm import tqdm

    pictures: dict[str, set[str]] = {}
    seen: set[str] = set()
    written = {}
    for split, records in spec.convert(work).items():
        pictures[split] = set()
        own = with_pictures(unique(sampled(records, lambda record: f"{record['id']}", work), seen, work), work)
        path = work.root / f"{split}.json"
        count = write_records(path, tqdm(_noted(own, pictures[split]), desc=f"write {split}", disable=not work.progress))
        written[split] = {
            "file": path.name,
            "records": count,
            "pictures": len(pictures[split]),
            "bytes": _bytes(path),
            "from": spec.splits[split],
        }
    of_splits = Counter(picture for split in pictures.values() for picture in split)
    work.counts["pictures in several splits"] = sum(times > 1 for times in of_splits.values())
    return written


def describe(spec: DatasetSpec, request: Request, work: Work) -> dict[str, Any]:
    """What `prepare.json` says besides splits and files."""
    try:
        own = version("perennial")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "name": spec.name,
        "title": spec.title,
        "key": key(spec, request),
        "seed": request.seed,
        "limit": request.limit,
        "versions": {"perennial": own, "python": platform.python_version(), "converter": spec.version},
        "question": spec.question,
        "answer": spec.answer,
        "left_out": {reason: len(names) for reason, names in work.left_out.items()},
        "left_out_names": LEFT_OUT if work.left_out else None,
        "counts": {name: count for name, count in work.counts.items() if count},
        "licence": spec.licence,
        "licence_notes": spec.licence_notes,
        "homepage": spec.homepage,
        "citation": spec.citation,
        "notes": list(spec.notes),
    }


def _noted(records: Iterable[Record], pictures: set[str]) -> Iterator[Record]:
    for record in records:
        pictures.update(images_of(record))
        yield record


def _room(spec: DatasetSpec, request: Request) -> None:
    """Stops before a download that the disk cannot hold."""
    if request.source is not None or any(request.output.glob("raw/*")):
        return  # part of it is there already: how much is missing is not known
    folder = request.output
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < spec.download:
        raise RuntimeError(
            f"{spec.name} needs {spec.disk / 1e9:.1f} GB (download {spec.download / 1e9:.1f} GB), {folder} has {free / 1e9:.1f} GB; "
            "make room or give another --output"
        )


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
