"""TimeClock: what time a drawn clock shows."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.prepare.pictures import link
from data.prepare.records import ask
from data.prepare.spec import DatasetSpec, Record
from data.prepare.unpack import PICTURES
from data.prepare.work import Work

QUESTION = "What time does the clock show in this image?"
SPLITS = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}  # folder -> split
SHARES = {"test": 0.1, "val": 0.1}  # of an undivided folder; the rest is for training


def convert(work: Work) -> Mapping[str, Iterable[Record]]:
    """One question a picture; the picture's folder says the time, the folder around it the split."""
    assert work.source is not None, "asked for before converting"
    splits: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for path in sorted(path for path in work.source.rglob("*") if path.suffix.lower() in PICTURES):
        place = path.relative_to(work.source)
        time = clock_time(path.parent.name)
        if time is None:
            work.leave_out("folder that names no time", place.as_posix())
            continue
        split = next((SPLITS[part.lower()] for part in place.parts if part.lower() in SPLITS), None) or drawn_split(path, work)
        image = Path("images") / split / path.parent.name / path.name
        link(path, work.root / image)
        splits[split].append(ask(f"timeclock-{split}-{path.parent.name}-{path.stem}", image.as_posix(), QUESTION, time))
    if not any(splits.values()):
        raise ValueError(f"{work.source} holds no clock. {TIMECLOCK.by_hand}")
    return splits


def clock_time(folder: str) -> str | None:
    """The time that a folder's name says, as HH:MM: "1-05" is "01:05"; None if it says none."""
    found = re.fullmatch(r"(\d{1,2})[-_:.](\d{2})", folder)
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        return None
    return f"{int(found[1]):02d}:{found[2]}"


def drawn_split(path: Path, work: Work) -> str:
    """A split for a picture of an undivided folder, by its content: copies of one picture never part."""
    place = work.fraction(hashlib.sha256(path.read_bytes()).hexdigest())
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


TIMECLOCK = DatasetSpec(
    name="timeclock",
    title="TimeClock: 14,400 drawn clocks in steps of five minutes",
    files=(),
    convert=convert,
    splits={
        split: f"the folder {'valid' if split == 'val' else split}/; of an undivided folder {share}, drawn by seed and picture content"
        for split, share in (("train", "80 %"), ("val", "10 %"), ("test", "10 %"))
    },
    question=f"'{QUESTION}', as in the code of arXiv 2510.08564 (where the picture stands behind it)",
    answer="HH:MM with two digits each, as there",
    licence="CC0 1.0",
    licence_notes="As Kaggle's page says for the set that is named here.",
    homepage="https://www.kaggle.com/datasets/gpiosenka/time-image-datasetclassification",
    citation="TIME - Image Dataset-Classification, G. Piosenka, Kaggle; used in arXiv 2510.08564 (source inferred)",
    notes=(
        "where the clocks of arXiv 2510.08564 come from is not stated to us; its sizes (about 11.5k, 1.44k to test) are those of this set.",
        "its users report about 20 clocks without hands or with wrong ones (files called 36.jpg).",
    ),
    by_hand=(
        "Kaggle's gpiosenka/time-image-datasetclassification needs an account: unpack it, or any clocks in the same form, as "
        "train/H-MM/*.jpg, valid/H-MM/*.jpg, test/H-MM/*.jpg (H-MM is the time, e.g. 1-05); without these three folders a split is drawn."
    ),
)
