"""Where the pictures are that a record names."""

import base64
import binascii
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.images import ImageSource
from data.problems import BadRecord

LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes that file systems allow for a part of a path, for all of it


@dataclass(frozen=True, kw_only=True)
class RecordImages:
    """Finds the pictures of one record.

    Attributes:
        record: Its position, which names pictures in memory.
        root: Folder that paths are relative to.
        beside: Pictures that stand beside the record in a tar shard, by the names of their members.
    """

    record: int
    root: Path
    beside: Mapping[str, ImageSource] = field(default_factory=dict)

    def all_of(self, record: Mapping[str, Any], *keys: str) -> list[ImageSource]:
        """The pictures that a record holds under one of the keys; those beside it where it names none."""
        given = {key: values for key in keys if (values := _values(record.get(key)))}
        if not given:
            return list(self.beside.values())
        key, values = given.popitem()
        if any(other != values for other in given.values()):
            message = f"pictures both in {keys[0]!r} and in {key!r}; give one of them, or map one to another name in the source's columns"
            raise BadRecord("bad_image_field", message)
        return [self.one(value, key) for value in values]

    def one(self, value: Any, key: str) -> ImageSource:
        """The picture that stands as `value` under a key.

        Raises:
            BadRecord: It is no path, bytes, URL or data URI.
        """
        if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
            content, name = value.get("bytes"), value.get("path")
            if isinstance(content, bytes) and (name is None or isinstance(name, str)):
                return ImageSource(name or f"bytes of record {self.record}", data=content)
            if isinstance(content, str):
                raise BadRecord("bad_image_field", f"{key!r} holds its bytes as text; write them as a data URI (data:image/png;base64,...)")
            value = name if content is None else content
        if isinstance(value, bytes):
            return ImageSource(f"bytes of record {self.record}", data=value)
        if not isinstance(value, str) or not value:
            got = "empty text" if value == "" else type(value).__name__
            raise BadRecord("bad_image_field", f"{key!r} holds {got}, expected a path, bytes, a URL, a data URI, or a list of such")
        return self._named(value, key)

    def _named(self, name: str, key: str) -> ImageSource:
        if name.startswith("data:"):
            return ImageSource(f"data URI of record {self.record}", data=_content(name, key))
        if name.startswith(("http://", "https://")):
            return ImageSource(name)
        if self.beside:
            return self._beside(name)
        name = name.removeprefix("file://")
        if len(name) > LONGEST_NAME and (len(name) > LONGEST_PATH or max(map(len, name.encode().split(b"/"))) > LONGEST_NAME):
            message = f"{key!r} holds {len(name):,} characters that are no path; write a picture's base64 as data:image/png;base64,..."
            raise BadRecord("bad_image_field", message)
        return ImageSource(str(self.root / name))

    def _beside(self, name: str) -> ImageSource:
        for is_meant in (
            lambda member: member == name,
            lambda member: posixpath.basename(member).partition(".")[2] == name.removeprefix("."),
            lambda member: posixpath.basename(member) == posixpath.basename(name),
        ):
            found = next((source for member, source in self.beside.items() if is_meant(member)), None)
            if found is not None:
                return found
        remedy = "name one of them, or none to take them in order"
        raise BadRecord("missing_image", f"image {name} is not in the sample, which holds {', '.join(self.beside)}; {remedy}")


def _values(value: Any) -> list[Any]:
    """Pictures as a list; tables write "no picture" in many ways."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [] if all(map(_is_nothing, values)) else values


def _is_nothing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, dict) and all(part is None for part in value.values()))


def _content(uri: str, key: str) -> bytes:
    head, _, payload = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not marked as ;base64")
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{key!r} holds a broken data URI ({error}); expected data:image/png;base64,... so write it again, or remove the record"
        raise BadRecord("bad_data_uri", message) from error
