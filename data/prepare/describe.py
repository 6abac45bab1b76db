"""What can be prepared, as a table; what a call would do, as a plan."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from data.prepare.spec import DatasetSpec, RemoteFile, Request
from data.prepare.store import Store


def table(specs: Iterable[DatasetSpec]) -> str:
    """One line for each data set: name, download, disk, licence, title."""
    rows = [["name", "download", "disk", "licence", "what it is"]]
    for spec in specs:
        sizes = ["by hand", "by hand"] if spec.by_hand else [amount(spec.download), amount(spec.disk)]
        rows.append([spec.name, *sizes, spec.licence, spec.title])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "The licences are those of the annotations; for the pictures see: perennial prepare NAME --dry-run"])


def plan(spec: DatasetSpec, request: Request) -> str:
    """Everything that a call would do, without doing it."""
    lines = [f"{spec.name}: {spec.title}", f"homepage: {spec.homepage}", f"licence: {spec.licence}. {spec.licence_notes}", ""]
    store = Store(spec, request)
    for file in spec.files:
        lines += _file(file, store, request)
    if spec.by_hand:
        lines.append(f"by hand: {spec.by_hand}")
    if spec.fetch:
        lines.append(f"pictures named by address, about {amount(spec.pictures)} -> {request.output / 'images'}")
    lines.append("")
    for split, origin in spec.splits.items():
        lines.append(f"writes {request.output / f'{split}.json'}: {origin}")
    lines += [f"question: {spec.question}", f"answer: {spec.answer}", *(f"note: {note}" for note in spec.notes), ""]
    free = amount(shutil.disk_usage(_existing(request.output)).free)
    needs = "" if spec.by_hand else f"download about {amount(spec.download)}; disk about {amount(spec.disk)}, "
    lines.append(f"{needs}free {free}. Nothing was fetched.")
    return "\n".join(lines)


def _file(file: RemoteFile, store: Store, request: Request) -> list[str]:
    size = f"{file.size:,} bytes" if file.size else f"about {amount(file.about)}" if file.about else "size not known"
    path = None if "*" in file.name else store.found(file.name)
    partial = store.raw / f"{file.name}.partial"
    state = f"there: {path}" if path else "to fetch"
    if path is None and partial.is_file():
        state = f"to fetch, {partial.stat().st_size:,} bytes of it are there"
    known = file.checksum or ("checksum: the Hub's own" if file.hub else "no published checksum")
    lines = [f"{file.address}", f"    {size}; {known}; {state}", f"    -> {store.raw / file.name}"]
    if file.unpack:
        lines.append(f"    unpacked to {request.output / (file.unpack.gives or file.unpack.folder)}")
    return lines


def amount(size: int) -> str:
    """Bytes for people: "27.4 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
