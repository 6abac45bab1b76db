"""The one canonical record: a dialogue with the pictures it speaks about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

IMAGE_MARK = "<image>"

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One speaker's text; in a user turn `<image>` marks where a picture stands."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A whole dialogue.

    Attributes:
        id: Name of the record, as its file gives it; the record's number where the file gives none.
        turns: The turns in order.
        images: One path for each `<image>` in the turns, in the same order.
        source: The file that the record was read from.
        record: Position in that file, counted from 0.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Path, ...] = ()
    source: str = ""
    record: int = 0

    @property
    def where(self) -> str:
        """Where the record stands, as error messages name it: "instruct.json record 12"."""
        return f"{Path(self.source).name or 'conversation'} record {self.record}"
