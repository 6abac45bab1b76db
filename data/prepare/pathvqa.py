"""PathVQA: questions on pathology pictures, which lie inside Parquet files."""

from collections.abc import Iterable, Iterator, Mapping

from data.prepare.pictures import keep
from data.prepare.records import ask
from data.prepare.spec import DatasetSpec, Record, RemoteFile
from data.prepare.work import Work

PATTERNS = {"train": "data/train-*.parquet", "val": "data/validation-*.parquet", "test": "data/test-*.parquet"}
ROWS = 64  # decoded at once: each row carries a picture of its own


def convert(work: Work) -> Mapping[str, Iterable[Record]]:
    """One question a row; a picture becomes a file of its original bytes, once, however many rows repeat it."""
    return {split: _records(work, split) for split in PATTERNS}


def _records(work: Work, split: str) -> Iterator[Record]:
    from pyarrow import parquet

    number = 0
    for path in work.files[PATTERNS[split]]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=["image", "question", "answer"]):
                for row in batch.to_pylist():
                    identity = f"pathvqa-{split}-{number}"
                    number += 1
                    image = keep(row["image"]["bytes"] or b"", work.root) if row["image"] else None
                    if image is None:
                        work.leave_out("no picture in the row", identity)
                        continue
                    yield ask(identity, image, row["question"].strip(), row["answer"].strip())


PATHVQA = DatasetSpec(
    name="pathvqa",
    title="PathVQA: 32,632 questions on pathology pictures",
    files=(
        RemoteFile(name=PATTERNS["train"], hub="flaviagiammarino/path-vqa", about=470_000_000),
        RemoteFile(name=PATTERNS["val"], hub="flaviagiammarino/path-vqa", about=155_000_000),
        RemoteFile(name=PATTERNS["test"], hub="flaviagiammarino/path-vqa", about=160_000_000),
    ),
    convert=convert,
    pictures=785_000_000,
    splits={"train": "official, 19,654", "val": "official, 6,259", "test": "official, 6,719"},
    question="the set's own, with nothing added, as in the code of arXiv 2510.08564",
    answer="the set's own: yes, no, or a few words",
    licence="MIT",
    licence_notes="The pictures and captions belong to the publishers of two textbooks and the owners of the PEIR library.",
    homepage="https://github.com/UCSD-AI4H/PathVQA",
    citation="He et al., PathVQA: 30000+ Questions for Medical Visual Question Answering, arXiv 2003.10286",
    notes=("all its files together are 785,422,885 bytes; how that divides among the splits is our estimate.",),
)
