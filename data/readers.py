"""Readers turn a file on disk into conversations."""

import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.conversation import IMAGE_MARK, Conversation, Role, Turn

SPEAKERS: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(path: str | Path, format: str = "llava", image_root: str | Path | None = None) -> list[Conversation]:
    """Reads every record of a file.

    Args:
        path: The file.
        format: A key of `READERS`.
        image_root: Folder that image paths are relative to; the file's own folder when None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown or a record is malformed; the message names file, record, problem and remedy.
    """
    reader = READERS.get(format)
    if reader is None:
        near = difflib.get_close_matches(format, READERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown data format {format!r}; did you mean {near!r}? Known formats: {', '.join(READERS)}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"data file {path} does not exist; check the path in the recipe's data.sources")
    return reader(path, Path(image_root) if image_root is not None else path.parent)


def read_llava(path: Path, image_root: Path) -> list[Conversation]:
    """Reads LLaVA records from a JSON list or from JSON lines."""
    return [_llava_record(record, path, number, image_root) for number, record in _records(path)]


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name} line {error.lineno}: not valid JSON ({error.msg}); repair the file or write it again") from error
        yield from enumerate(records)
        return
    number = 0
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path.name} line {line_number}: not valid JSON ({error.msg}); expected a JSON list, or one JSON object a line"
            ) from error
        number += 1


def _llava_record(record: Any, path: Path, number: int, image_root: Path) -> Conversation:
    where = f"{path.name} record {number}"
    if not isinstance(record, dict):
        raise ValueError(f"{where}: got {type(record).__name__}, expected an object with 'conversations'")
    turns = tuple(_llava_turn(turn, where, position) for position, turn in enumerate(_list(record, "conversations", where)))
    if not turns:
        raise ValueError(f"{where}: 'conversations' is empty; give at least one turn, or remove the record")
    images = _images(record, where, image_root)
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks != len(images):
        raise ValueError(f"{where}: {marks} {IMAGE_MARK} tag{_s(marks)}, {len(images)} image{_s(len(images))}; give one tag for each image")
    identity = record.get("id")
    return Conversation(
        id=str(number if identity is None else identity),
        turns=turns,
        images=images,
        source=str(path),
        record=number,
    )


def _llava_turn(turn: Any, where: str, position: int) -> Turn:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise ValueError(f"{where} turn {position}: expected an object with 'from' and 'value', got {_short(turn)}")
    speaker, text = turn["from"], turn["value"]
    if speaker not in SPEAKERS:
        raise ValueError(f"{where} turn {position}: unknown speaker {speaker!r}; expected one of {', '.join(SPEAKERS)}")
    if not isinstance(text, str):
        raise ValueError(f"{where} turn {position}: 'value' is {type(text).__name__}, expected text")
    if SPEAKERS[speaker] != "user" and IMAGE_MARK in text:
        raise ValueError(f"{where} turn {position}: {IMAGE_MARK} in a turn of {speaker!r}; pictures stand in the human's turns only")
    return Turn(role=SPEAKERS[speaker], text=text)


def _list(record: dict[str, Any], key: str, where: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        got = "nothing" if value is None else type(value).__name__
        raise ValueError(f"{where}: expected a list in {key!r}, got {got}; its keys are {', '.join(sorted(record)) or 'none'}")
    return value


def _images(record: dict[str, Any], where: str, image_root: Path) -> tuple[Path, ...]:
    value = record.get("image")
    names = [] if value in (None, "") else value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{where}: 'image' holds {type(name).__name__}, expected a path or a list of paths")
    return tuple(image_root / name for name in names)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


READERS: dict[str, Callable[[Path, Path], list[Conversation]]] = {"llava": read_llava}
