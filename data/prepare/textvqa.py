"""TextVQA: questions that need the text in a picture."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data.prepare.records import ask
from data.prepare.spec import DatasetSpec, Record, RemoteFile, Unpack
from data.prepare.work import Work

FILES = {"train": "TextVQA_0.5.1_train.json", "val": "TextVQA_0.5.1_val.json"}
SITE = "https://dl.fbaipublicfiles.com/textvqa"


def convert(work: Work) -> Mapping[str, Iterable[Record]]:
    """One record a question: its most frequent answer to learn, all ten to be scored with."""
    return {split: _records(work.file(name)) for split, name in FILES.items()}


def _records(path: Path) -> Iterator[Record]:
    for row in json.loads(path.read_bytes())["data"]:
        answers = row["answers"]
        common = Counter(answers).most_common(1)[0][0]  # of equally frequent ones the first
        yield ask(f"textvqa-{row['question_id']}", f"images/{row['image_id']}.jpg", row["question"], common, answers=answers)


TEXTVQA = DatasetSpec(
    name="textvqa",
    title="TextVQA 0.5.1: 39,602 questions on text in photos",
    files=(
        RemoteFile(name=FILES["train"], url=f"{SITE}/data/{FILES['train']}", size=21_634_937),
        RemoteFile(name=FILES["val"], url=f"{SITE}/data/{FILES['val']}", size=3_116_162),
        RemoteFile(
            name="train_val_images.zip",
            url=f"{SITE}/images/train_val_images.zip",
            size=7_072_297_970,
            unpack=Unpack(folder="images", gives="images", flat=True),
        ),
    ),
    convert=convert,
    splits={"train": "official, 34,602", "val": "official, 5,000; the test split has no public answers"},
    question="the set's own, with nothing added, as in the code of arXiv 2510.08564; no OCR tokens",
    answer="the most frequent of ten people's answers, of equally frequent ones the first; the record's 'answers' holds all ten",
    licence="CC BY 4.0",
    licence_notes="The photos are from Open Images, listed there as CC BY 2.0.",
    homepage="https://textvqa.org",
    citation="Singh et al., Towards VQA Models That Can Read, arXiv 1904.08920",
)
