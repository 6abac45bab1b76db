"""Readers turn raw records into conversations."""

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from data.config import SourceConfig
from data.containers import raw_records
from data.conversation import IMAGE_MARK, Conversation, Role, Turn, where
from data.documents import parts_of
from data.images import ImageSource
from data.problems import BadRecord, Problem
from data.record_images import RecordImages
from data.repairs import Said, repaired
from data.shards import PICTURES_KEY

SPEAKERS: dict[str, Role] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TOOLS = {
    "sharegpt": frozenset({"tool", "function", "observation", "function_call", "tool_call"}),
    "messages": frozenset({"tool", "function"}),
}
"""Format -> speakers whose turns are calls or results of tools."""

COMMON = ("id", "image", "images", "weight")
COLUMNS = {
    "llava": ("conversations", *COMMON),
    "sharegpt": ("conversations", "system", *COMMON),
    "messages": ("messages", *COMMON),
    "qa": ("question", "answer", *COMMON),
    "text": ("text", "weights", "id", "weight"),
    "tree": (),
}
"""Format -> the names that `columns` of a source may map."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-9, 1e9  # of a turn, a record: their products stay far inside float32
NEITHER = ("video", "videos", "audio", "audios")  # what a record may hold beside text and pictures


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader knows beside the record itself.

    Attributes:
        source: The source's path, as the recipe gives it.
        record: The record's position in it.
        image_root: Folder that image paths are relative to.
        columns: Name that the format expects -> the records' own name.
    """

    source: str
    record: int
    image_root: Path
    columns: Mapping[str, str]

    def name(self, expected: str) -> str:
        """The records' own name for what the format calls `expected`."""
        return self.columns.get(expected, expected)


def stream(source: SourceConfig) -> Iterator[Conversation | Problem]:
    """Reads every record of a source, one at a time.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: It, its format or its columns are of no kind that can be read.
    """
    _check(source)
    for number, raw in raw_records(source):
        try:
            if isinstance(raw, BadRecord):
                raise raw
            yield read_record(raw, source, number)
        except BadRecord as problem:
            message = f"{where(source.path, number)}: {problem.message}"
            yield Problem(source=source.path, record=number, kind=problem.kind, message=message)


def read_record(raw: Any, source: SourceConfig, number: int) -> Conversation:
    """Reads one record.

    Args:
        raw: The record, as `raw_records` gives it.
        source: Where it comes from.
        number: Its position there.

    Raises:
        BadRecord: It is malformed; the message names problem and remedy, not the place.
        ValueError: The source's format or columns are unknown.
    """
    if source.columns or source.format not in READERS:
        _check(source)
    root = _image_root(source.path, source.image_root)
    return READERS[source.format](raw, Reading(source=source.path, record=number, image_root=root, columns=source.columns))


def read(path: str | Path, format: str = "llava", image_root: str | Path | None = None) -> list[Conversation]:
    """Reads every record of a file at once.

    Args:
        path: The file, or another source.
        format: A key of `READERS`.
        image_root: Folder that image paths are relative to; the file's own folder when None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown or a record is malformed; the message names file, record, problem and remedy.
    """
    source = SourceConfig.model_validate({"path": str(path), "format": format, "image_root": image_root and str(image_root)})
    found = []
    for one in stream(source):
        if isinstance(one, Problem):
            raise ValueError(one.message)
        found.append(one)
    return found


def read_llava(raw: Any, reading: Reading) -> Conversation:
    """Reads a record as LLaVA writes it: `conversations` of `from` with `value`, `image`."""
    record = _object(raw, reading, "conversations")
    turns = _list(record, reading.name("conversations"))
    return _conversation(record, reading, [_from_value(turn, position, frozenset()) for position, turn in enumerate(turns)])


def read_sharegpt(raw: Any, reading: Reading) -> Conversation:
    """Reads a record as ShareGPT and its kin write it: as LLaVA's, with `system` beside the turns and turns of tools."""
    record = _object(raw, reading, "conversations")
    turns = _list(record, reading.name("conversations"))
    said = [_from_value(turn, position, TOOLS["sharegpt"]) for position, turn in enumerate(turns)]
    system = record.get(reading.name("system"))
    if system is not None and not isinstance(system, str):
        raise BadRecord("not_text", f"{reading.name('system')!r} is {type(system).__name__}, expected text; correct or remove it")
    return _conversation(record, reading, [Said(role="system", text=system), *said] if system else said)


def read_messages(raw: Any, reading: Reading) -> Conversation:
    """Reads a record as OpenAI writes it: `messages` of `role` with `content`, which is text or a list of parts."""
    record = _object(raw, reading, "messages")
    images = _images(record, reading)
    turns = _list(record, reading.name("messages"))
    return _conversation(record, reading, [_message(turn, position, images) for position, turn in enumerate(turns)])


def read_qa(raw: Any, reading: Reading) -> Conversation:
    """Reads a question with its answer, or with several answers, of which the first that is not empty counts."""
    record = _object(raw, reading, "question")
    texts = []
    for name in map(reading.name, ("question", "answer")):
        value = record.get(name)
        if value is None:
            raise BadRecord("missing_turns", f"expected text in {name!r}, got nothing; {_keys(record)}")
        if name == reading.name("answer") and isinstance(value, list):
            value = next((one for one in value if one != ""), "")
        if not isinstance(value, str):
            raise BadRecord("not_text", f"{name!r} is {type(value).__name__}, expected text; write it as text")
        texts.append(value)
    question, answer = texts
    if IMAGE_MARK not in question:
        question = f"{IMAGE_MARK}\n" * len(_own_images(record, reading)) + question
    return _conversation(record, reading, [_said("user", question, 0, {}), _said("assistant", answer, 1, {})])


def read_text(raw: Any, reading: Reading) -> Conversation:
    """Reads a plain document: `text`, with `weights` of its parts where they differ, as `data.documents.parts_of` takes them."""
    record = _object(raw, reading, "text")
    if _own_images(record, reading):
        raise BadRecord("placeholder_mismatch", "pictures beside a plain text; remove them, or write a dialogue that shows them")
    names = reading.name("text"), reading.name("weights")
    text, weights = map(record.get, names)
    if text is None:
        raise BadRecord("missing_turns", f"expected text in {names[0]!r}, got nothing; {_keys(record)}")
    parts = [(part, _weight(weight, f"a weight in {names[1]!r}")) for part, weight in parts_of(text, weights, names)]
    return _checked(record, reading, [Said(role="text", text=part, weight=weight) for part, weight in parts], ())


READERS: dict[str, Callable[[Any, Reading], Conversation]] = {
    "llava": read_llava,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
    "qa": read_qa,
    "text": read_text,
    "tree": read_llava,
}
"""Format -> what reads its records."""


@cache
def _image_root(source: str, root: str | None) -> Path:
    path = Path(source)
    return Path(root) if root is not None else path if path.is_dir() else path.parent


def _check(source: SourceConfig) -> None:
    if source.format not in READERS:
        near = difflib.get_close_matches(source.format, READERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown data format {source.format!r}; did you mean {near!r}? Known formats: {', '.join(READERS)}")
    if unknown := source.columns.keys() - set(COLUMNS[source.format]):
        known = ", ".join(COLUMNS[source.format]) or "none"
        raise ValueError(f"{source.path}: format {source.format!r} has no column {', '.join(sorted(unknown))}; columns may map: {known}")


# --- turns as they are written ---------------------------------------------------------------------------------------


def _from_value(turn: Any, position: int, tools: frozenset[str]) -> Said | None:
    """A turn of LLaVA or ShareGPT; None for one of a tool."""
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise BadRecord("broken_turn", f"turn {position}: expected an object with 'from' and 'value', got {_short(turn)}")
    speaker, text = turn["from"], turn["value"]
    if isinstance(speaker, str) and speaker in tools:
        return None
    role = _role(speaker, position)
    if not isinstance(text, str):
        raise BadRecord("not_text", f"turn {position}: 'value' is {type(text).__name__}, expected text")
    return _said(role, text, position, turn)


def _message(turn: Any, position: int, images: RecordImages) -> Said | None:
    """A turn of the OpenAI format; None for one of a tool, or one that does nothing but call tools."""
    calls_tools = isinstance(turn, dict) and bool(turn.get("tool_calls") or turn.get("function_call"))
    if not isinstance(turn, dict) or "role" not in turn or (turn.get("content") is None and not calls_tools):
        raise BadRecord("broken_turn", f"turn {position}: expected an object with 'role' and 'content', got {_short(turn)}")
    speaker, content = turn["role"], turn.get("content")
    if isinstance(speaker, str) and speaker in TOOLS["messages"]:
        return None
    role = _role(speaker, position)
    if calls_tools and not content:
        return None
    pictures = None
    if isinstance(content, list):
        content, pictures = _joined(content, position, images)
    if not isinstance(content, str):
        raise BadRecord("not_text", f"turn {position}: 'content' is {type(content).__name__}, expected text or a list of parts")
    said = _said(role, content, position, turn)
    return said if pictures is None and not calls_tools else replace(said, images=pictures or said.images, calls_tools=calls_tools)


def _joined(parts: Sequence[Any], position: int, images: RecordImages) -> tuple[str, tuple[ImageSource | None, ...]]:
    """Parts of a message as one text, a line to itself for each run of pictures, as LLaVA writes it."""
    text, after_picture = "", None
    pictures: list[ImageSource | None] = []
    for part in parts:
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, dict) else None
        if kind in ("image", "image_url"):
            piece, is_picture = IMAGE_MARK, True
            pictures.append(_picture_of(part, images))
        elif kind == "text":
            piece, is_picture = part if isinstance(part, str) else part.get("text"), False
            if not isinstance(piece, str):
                raise BadRecord("not_text", f"turn {position}: a part's 'text' is {type(piece).__name__}, expected text")
            pictures += [None] * piece.count(IMAGE_MARK)
        else:
            message = f"turn {position}: a part of type {_short(kind)}, expected text, image or image_url; remove it, or the record"
            raise BadRecord("unsupported_part", message)
        if piece:
            borders = after_picture is not None and is_picture != after_picture
            text += "\n" * (borders and not text.endswith("\n") and not piece.startswith("\n")) + piece
            after_picture = is_picture
    return text, tuple(pictures)


def _picture_of(part: Mapping[str, Any], images: RecordImages) -> ImageSource | None:
    """The picture that a part holds; None where it stands for the next one of the record's own."""
    for key in ("image", "image_url", "url", "path", "bytes"):
        value = part.get(key)
        if isinstance(value, dict) and "url" in value:
            value = value["url"]
        if value is not None:
            return images.one({"bytes": value} if key == "bytes" else value, key)
    if part["type"] == "image_url":
        raise BadRecord("bad_image_field", "a part of type image_url holds no 'image_url'; expected {'url': ...} in it")
    return None


def _said(role: Role, text: str, position: int, turn: Mapping[str, Any]) -> Said:
    """A turn with its own weight; each `<image>` in it stands for one of the record's own pictures."""
    marks = text.count(IMAGE_MARK)
    if marks and role != "user":
        speaker = turn.get("from", turn.get("role", role))
        message = f"turn {position}: {IMAGE_MARK} in a turn of {speaker!r}; pictures stand in the human's turns only"
        raise BadRecord("image_in_answer", message)
    weight = 1.0
    for key in ("weight", "loss_weight"):
        if key in turn:
            weight *= _weight(turn[key], f"turn {position}: {key!r}")
    return Said(role=role, text=text, weight=weight, images=(None,) * marks)


def _role(speaker: Any, position: int) -> Role:
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        message = f"turn {position}: unknown speaker {_short(speaker)}; expected one of {', '.join(SPEAKERS)}"
        raise BadRecord("unknown_role", message)
    return SPEAKERS[speaker]


def _weight(value: Any, name: str) -> float:
    if value is None:
        return 1.0
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if number != 0 and not SMALLEST_WEIGHT <= number <= LARGEST_WEIGHT:
        raise BadRecord("bad_weight", f"{name} is {_short(value)}, expected 0, or a number from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}")
    return number


# --- records ---------------------------------------------------------------------------------------------------------


def _conversation(record: Mapping[str, Any], reading: Reading, written: Sequence[Said | None]) -> Conversation:
    """The record, repaired where that is safe."""
    return _checked(record, reading, *repaired(written))


def _checked(record: Mapping[str, Any], reading: Reading, turns: Sequence[Said], repairs: tuple[str, ...]) -> Conversation:
    """The record; each `<image>` of a dialogue has its picture."""
    for key in NEITHER:
        if record.get(key):
            raise BadRecord("unsupported_part", f"the record holds {key!r}; expected text and pictures only, so leave it out")
    own = _own_images(record, reading)
    slots = [slot for turn in turns for slot in turn.images]
    images = len(own) + sum(slot is not None for slot in slots)
    if len(slots) != images:
        counts = f"{len(slots)} {IMAGE_MARK} tag{_s(len(slots))}, {images} image{_s(images)}"
        raise BadRecord("placeholder_mismatch", f"{counts}; give one tag for each image")
    weight, rest = _weight(record.get(reading.name("weight")), repr(reading.name("weight"))), iter(own)
    return Conversation(
        id=_id(record.get(reading.name("id")), reading),
        turns=tuple(Turn(role=turn.role, text=turn.text, weight=turn.weight * weight) for turn in turns),
        images=tuple(next(rest) if slot is None else slot for slot in slots),
        source=reading.source,
        record=reading.record,
        repairs=repairs,
    )


def _object(raw: Any, reading: Reading, expected: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise BadRecord("not_an_object", f"got {type(raw).__name__}, expected an object with {reading.name(expected)!r}")
    return raw


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRecord("broken_json", f"{key!r} is text that is not JSON ({error}); expected a list of turns") from error
    if not isinstance(value, list):
        got = "nothing" if value is None else type(value).__name__
        raise BadRecord("missing_turns", f"expected a list in {key!r}, got {got}; {_keys(record)}")
    if not value:
        raise BadRecord("empty", f"{key!r} is empty; give at least one turn, or remove the record")
    return value


def _images(record: Mapping[str, Any], reading: Reading) -> RecordImages:
    return RecordImages(record=reading.record, root=reading.image_root, beside=record.get(PICTURES_KEY) or {})


def _own_images(record: Mapping[str, Any], reading: Reading) -> list[ImageSource]:
    return _images(record, reading).all_of(record, reading.name("image"), reading.name("images"))


def _id(value: Any, reading: Reading) -> str:
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int | float)):
        raise BadRecord("bad_id", f"{reading.name('id')!r} is {_short(value)}, expected text or a number; correct or remove it")
    return str(reading.record if value is None or value == "" or value != value else value)  # tables write NaN for nothing


def _keys(record: Mapping[str, Any]) -> str:
    return f"its keys are {', '.join(sorted(map(str, record.keys() - {PICTURES_KEY}))) or 'none':.200}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
