"""What a data set is made of: its files, its licence, how it becomes LLaVA records."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prepare.work import Work

Record = dict[str, Any]
Convert = Callable[[Work], Mapping[str, Iterable[Record]]]


@dataclass(frozen=True, kw_only=True)
class Unpack:
    """Where the files of an archive go.

    Attributes:
        folder: Below the output folder; "" is the output folder itself.
        gives: The folder, below the output folder, that is there afterwards; one of this name in `--from` replaces the archive.
        inside: Take only what lies in this folder of the archive, and name it from there.
        only: Of that, take only what begins like one of these; all when empty.
        flat: Put all pictures straight into `folder`, whatever folders the archive has.
    """

    folder: str
    gives: str = ""
    inside: str = ""
    only: tuple[str, ...] = ()
    flat: bool = False


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch, either from an address or from a data set repository on the Hugging Face Hub.

    Attributes:
        name: Its path below `raw/`; on the Hub also its path in the repository, where `*` stands for parts of a name.
        url: Its address.
        hub: The repository, OWNER/NAME.
        size: Bytes, where known exactly: another size is an error.
        about: Bytes, where known roughly.
        checksum: "sha256:..." or "md5:..." as published; "" where none is. The Hub's own are asked for when fetching.
        unpack: Where an archive's files go; None for other files.
    """

    name: str
    url: str = ""
    hub: str = ""
    size: int | None = None
    about: int | None = None
    checksum: str = ""
    unpack: Unpack | None = None

    @property
    def bytes(self) -> int:
        """Exact size if known, else the rough one, else 0."""
        return self.size or self.about or 0

    @property
    def address(self) -> str:
        """Where people find it."""
        return self.url or f"hf://datasets/{self.hub}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: What `perennial prepare` calls it.
        title: One line on what it is.
        files: What to fetch.
        convert: From the files on disk to records, by split; reads nothing else.
        splits: Split (the stem of a JSON file) -> where it comes from.
        question: The wording of the questions, and whose it is.
        answer: The form of the answers.
        licence: Of the annotations, in short.
        licence_notes: What else binds the user, pictures above all.
        homepage: Where its authors present it.
        citation: Short reference.
        version: Of the converter; another one makes a prepared folder out of date.
        fetch: Gets pictures that no file holds, after unpacking; None where there are none.
        pictures: Bytes, roughly, of pictures that are written besides unpacked archives.
        notes: What users should know of its content.
        by_hand: What `--from` has to hold where no file can be fetched; "" where all can.
    """

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    convert: Convert
    splits: Mapping[str, str]
    question: str
    answer: str
    licence: str
    licence_notes: str
    homepage: str
    citation: str
    version: int = 1
    fetch: Callable[[Work], None] | None = None
    pictures: int = 0
    notes: tuple[str, ...] = ()
    by_hand: str = ""

    @property
    def download(self) -> int:
        """Bytes to fetch, roughly."""
        return (self.pictures if self.fetch else 0) + sum(file.bytes for file in self.files)

    @property
    def disk(self) -> int:
        """Bytes needed while preparing, roughly; pictures hardly shrink in archives, so these count twice."""
        return self.pictures + sum(file.bytes * (2 if file.unpack else 1) for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        output: Folder of the prepared data set.
        source: Folder with files that are already there; None: fetch everything.
        seed: Chooses everything that is drawn: sample of `limit`, splits without an official one, wrong options.
        limit: Records of each split at most; None: all.
        progress: Say what is done and show bars.
    """

    output: Path
    source: Path | None = None
    seed: int = 0
    limit: int | None = None
    progress: bool = True

    def say(self, text: str) -> None:
        """Prints a line, unless silent."""
        if self.progress:
            print(text, flush=True)
