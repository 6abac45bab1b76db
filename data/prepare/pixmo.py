"""PixMo-Count: how many things of a kind a web picture shows."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data.prepare import pictures
from data.prepare.records import ask, sampled
from data.prepare.spec import DatasetSpec, Record, RemoteFile
from data.prepare.work import Work

PATTERNS = {"train": "data/train-*.parquet", "val": "data/validation-*.parquet", "test": "data/test-*.parquet"}
COLUMNS = ["image_url", "image_sha256", "count", "label"]


def fetch(work: Work) -> None:
    """Fetches the pictures of all rows that are asked for; see `data.prepare.pictures.fetch`."""
    pictures.fetch({row["image_sha256"]: row["image_url"] for split in PATTERNS for row in _rows(work, split)}, work)


def convert(work: Work) -> Mapping[str, Iterable[Record]]:
    """One question a row; rows whose picture could not be had are left out with the reason."""
    return {split: _records(work, split) for split in PATTERNS}


def _records(work: Work, split: str) -> Iterator[Record]:
    known = pictures.known(work)
    for row in _rows(work, split):
        found = known.get(row["image_sha256"], {"reason": "not fetched"})
        if "reason" in found:
            work.leave_out(f"picture {found['reason']}", f"{_identity(row)}: {row['image_url']}")
            continue
        label, count = row["label"], row["count"]
        answer = f"There {'is' if count == 1 else 'are'} {count} {label} in this image."
        yield ask(_identity(row), found["file"], f"How many {label} are in this image?", answer, count=count)


def _rows(work: Work, split: str) -> Iterable[dict[str, Any]]:
    from pyarrow import parquet

    paths = work.files[PATTERNS[split]]
    rows = (row for path in paths for row in parquet.read_table(path, columns=COLUMNS).to_pylist())
    return sampled(rows, _identity, work)


def _identity(row: dict[str, Any]) -> str:
    return f"pixmo-{row['image_sha256'][:16]}-{row['label']}"


PIXMO_COUNT = DatasetSpec(
    name="pixmo-count",
    title="PixMo-Count: 36,916 counting questions on web pictures",
    files=(
        RemoteFile(name=PATTERNS["train"], hub="allenai/pixmo-count", about=5_120_000),
        RemoteFile(name=PATTERNS["val"], hub="allenai/pixmo-count", about=59_200),
        RemoteFile(name=PATTERNS["test"], hub="allenai/pixmo-count", about=59_000),
    ),
    convert=convert,
    fetch=fetch,
    pictures=7_000_000_000,
    splits={
        "train": "official, found by a detector",
        "val": "official, 540, checked by people",
        "test": "official, 540, checked by people",
    },
    question="'How many LABEL are in this image?', as in the code of arXiv 2510.08564 (where the picture stands behind it)",
    answer="'There are N LABEL in this image.' ('There is 1 ...'), as there; the record's 'count' is the number",
    licence="ODC-BY 1.0",
    licence_notes="The pictures are fetched from their own addresses and belong to their owners; Ai2's responsible use guidelines apply.",
    homepage="https://huggingface.co/datasets/allenai/pixmo-count",
    citation="Deitke et al., Molmo and PixMo, arXiv 2409.17146",
    notes=(
        "pictures vanish from the web; each one is checked against its sha256, lost ones are counted by reason.",
        "pictures with several labels give several records; the code of arXiv 2510.08564 keeps the first one only.",
        "the size of all pictures is estimated from 5,606 of them (1.03 GB).",
    ),
)
