"""Samples from WebDataset shards."""

import itertools
import re
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from data.conversation import IMAGE_MARK
from data.images import ImageSource
from data.json_records import parse
from data.problems import BadRecord

PICTURES = frozenset("jpg jpeg png webp gif bmp tif tiff".split())
PICTURES_KEY = "__pictures__"  # of a record: the pictures that stand beside it in the shard, by the names of their members
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")  # as WebDataset: the key ends at the first dot of the name


def read_tar(file: Path, known: Collection[str]) -> Iterator[Any]:
    """The samples of a shard, as records or `BadRecord`s: members that follow each other under one key; pictures are not read.

    Args:
        file: The shard.
        known: Not used here.

    Raises:
        tarfile.TarError: The shard is broken or cut off.
    """
    with tarfile.open(file, "r:") as tar:
        named = ((found, member) for member in _members(tar) if (found := MEMBER.fullmatch(member.name)))
        for key, group in itertools.groupby(named, key=lambda one: one[0][1]):
            texts: dict[str, bytes] = {}
            pictures: dict[str, ImageSource] = {}
            for found, member in group:
                ending = found[2].lower()
                if ending in ("json", "txt"):
                    content = tar.extractfile(member)
                    texts[ending] = content.read() if content is not None else b""
                elif ending.rpartition(".")[2] in PICTURES:
                    pictures[member.name] = ImageSource(str(file.absolute()), offset=member.offset_data, size=member.size)
            yield _sample(texts, pictures, file.name, key)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files in a shard; raises where the archive's end mark is missing, which `tarfile` passes over."""
    while (member := tar.next()) is not None:
        if member.isreg():
            yield member
        tar.members.clear()  # type: ignore[attr-defined]  # all of them would be kept otherwise
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    mark = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
        raise tarfile.ReadError(f"the archive is cut off or broken at byte {tar.offset}")


def _sample(texts: dict[str, bytes], pictures: dict[str, ImageSource], shard: str, key: str) -> Any:
    place = f"{shard} sample {key}"
    if "json" in texts:
        record = parse(texts["json"], place)
        return {**record, PICTURES_KEY: pictures} if isinstance(record, dict) and pictures else record
    if "txt" not in texts or not pictures:
        remedy = "expected a .json that holds the turns, or pictures with a .txt; add one, or remove the sample"
        return BadRecord("missing_turns", f"{place} has neither; {remedy}")
    try:
        caption = texts["txt"].decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        return BadRecord("not_utf8", f"{place}: byte {error.start + 1} of its .txt is not UTF-8; write it again, or remove the sample")
    question = {"from": "human", "value": "\n".join([IMAGE_MARK] * len(pictures))}
    return {"id": key, "conversations": [question, {"from": "gpt", "value": caption}], PICTURES_KEY: pictures}
