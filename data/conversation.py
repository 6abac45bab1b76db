"""The one canonical record: a dialogue with the pictures it speaks about, or a plain document."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.images import ImageSource

IMAGE_MARK = "<image>"

Role = Literal["system", "user", "assistant", "text"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One speaker's text; in a user turn `<image>` marks where a picture stands.

    Attributes:
        role: Who speaks; "text": nobody, it is a part of a plain document.
        text: What is said.
        weight: Of this turn's tokens in the loss, if its role carries loss; 0: none.
    """

    role: Role
    text: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A whole dialogue, or a plain document.

    Attributes:
        id: Name of the record, as its file gives it; the record's number where the file gives none.
        turns: The turns in order; of a document its parts, which follow each other without a gap.
        images: One picture for each `<image>` in the turns, in the same order.
        source: The file that the record was read from.
        record: Position in that file, counted from 0.
        repairs: What the reader put right in the record, as names in `data.problems.REPAIRS`.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    source: str = ""
    record: int = 0
    repairs: tuple[str, ...] = ()

    @property
    def is_document(self) -> bool:
        """Whether it is a plain document: read as it is, without a chat template."""
        return bool(self.turns) and self.turns[0].role == "text"

    @property
    def where(self) -> str:
        """Where the record stands, as error messages name it: "instruct.json record 12"."""
        return where(self.source, self.record)


def where(source: str, record: int) -> str:
    """A record's place in words: "instruct.json record 12"."""
    return f"{Path(source).name or 'conversation'} record {record}"
