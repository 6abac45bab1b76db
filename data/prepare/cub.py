"""CUB-200-2011: bird species, asked as a choice among 26."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase

from data.prepare.records import ask
from data.prepare.spec import DatasetSpec, Record, RemoteFile, Unpack
from data.prepare.work import Work

QUESTION = "What species is the bird in this photo?\nAnswer with the option's letter from the given choices directly."
LISTS = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
SPLITS = {"train": "1", "test": "0"}


def convert(work: Work) -> Mapping[str, Iterable[Record]]:
    """One question a picture: its species among 25 others that the seed draws."""
    return {split: _records(work, flag) for split, flag in SPLITS.items()}


def _records(work: Work, flag: str) -> Iterator[Record]:
    pictures, classes, labels, training = (_list(work.root / name) for name in LISTS)
    for number, picture in pictures.items():
        if training[number] != flag:
            continue
        right = labels[number]
        draw = work.draw(number)
        options = [*draw.sample([label for label in classes if label != right], min(len(ascii_uppercase), len(classes)) - 1), right]
        draw.shuffle(options)
        choices = "\n".join(f"{letter}. {species(classes[label])}" for letter, label in zip(ascii_uppercase, options, strict=False))
        yield ask(
            f"cub-{number}",
            f"images/{picture}",
            f"{QUESTION}\n{choices}",
            ascii_uppercase[options.index(right)],
            species=species(classes[right]),
        )


def species(name: str) -> str:
    """A class name in words: "001.Black_footed_Albatross" is "Black footed Albatross"."""
    return name.partition(".")[2].replace("_", " ")


def _list(path: Path) -> dict[str, str]:
    """One of the set's text files: number -> what stands behind it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number: value for number, _, value in (line.strip().partition(" ") for line in lines) if number}


CUB = DatasetSpec(
    name="cub",
    title="CUB-200-2011: 11,788 photos of 200 bird species",
    files=(
        RemoteFile(
            name="CUB_200_2011.tgz",
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            size=1_150_585_339,
            checksum="md5:97eceeb196236b17998738112f37df78",
            unpack=Unpack(folder="", inside="CUB_200_2011", only=("images/", *LISTS)),
        ),
    ),
    convert=convert,
    splits={"train": "the official 5,994 training pictures", "test": "the official 5,794 test pictures"},
    question="the first of the ten wordings in the code of arXiv 2510.08564, which draws one; 26 options drawn by the seed, as there",
    answer="the letter of the right option, A to Z; the record's 'species' names it",
    licence="non-commercial",
    licence_notes="No standard licence; taken as for non-commercial research. The photos belong to their photographers. Read the homepage.",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    citation="Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001",
)
