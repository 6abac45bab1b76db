"""Records from JSON text, one at a time."""

import codecs
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data.problems import BadRecord

BLOCK = 4 * 2**20  # bytes read at once
UNFINISHED = 16  # characters: no number, literal or escape that a block's end may cut is longer
BLANK, GAP = re.compile(r"[ \t\r\n]*"), re.compile(r"[\s:,]*")
DECODER = json.JSONDecoder()

Raw = Any  # a plain JSON-like value, or the BadRecord that stands in its place


def read_json(file: Path, known: Collection[str]) -> Iterator[Raw]:
    """A JSON list, or objects line by line.

    Args:
        file: The file; unpacked on the way when its name ends in .gz.
        known: Keys that tell a record from an object around records.

    Raises:
        ValueError: The file is neither.
    """
    with _open(file) as opened:
        text = _Text(opened)
        first = text.next()
        if first == "[":
            yield from _listed(text, file.name)
        elif first == "{":
            _check_lines(text, file, known)
            opened.seek(0)
            yield from _lines(opened, file.name)
        elif first:
            start = ascii(text.text[text.at : text.at + 20])
            raise ValueError(f"{file} starts with {start}; expected a JSON list in UTF-8, or one JSON object a line")


def read_json_lines(file: Path, known: Collection[str]) -> Iterator[Raw]:
    """Objects line by line; a JSON list where the name promises lines is read as well."""
    with _open(file) as opened:
        text = _Text(opened)
        if text.next() == "[":
            yield from _listed(text, file.name)
            return
        opened.seek(0)
        yield from _lines(opened, file.name)


def parse(content: bytes, place: str) -> Raw:
    """What one JSON document says; `place` leads the message of a `BadRecord`."""
    try:
        text = content.decode()
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return BadRecord("not_utf8", f"{place}: byte {error.start + 1} is not UTF-8; write the file again as UTF-8, or remove the record")
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRecord("broken_json", f"{place}: not valid JSON ({reason}); expected one JSON object, so repair or remove it")
    return value if _is_unicode(text, value) else BadRecord("not_utf8", f"{place}: half of a surrogate pair{_REWRITE}")


_REWRITE = " (an escape such as \\ud83d alone); write the text again, or remove the record"


class _Text:
    """The text of a file, block by block, with the place that has been reached."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self.text, self.at, self.ended = "", 0, False
        self._line, self._column = 1, 1  # of the text's first character

    def more(self) -> None:
        """Reads on; as much as is waiting at least, so that a long value costs no more than twice its length."""
        self._line, self._column = self.place(self.at)
        block = self._file.read(max(BLOCK, len(self.text) - self.at))
        self.ended = not block
        self.text, self.at = self.text[self.at :] + self._decode(block, self.ended), 0

    def next(self) -> str:
        """Goes to the next character that is no blank; "" at the end."""
        while True:
            self.at = BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self) -> tuple[Any, str]:
        """Goes behind the next value; gives it with its text, raises what `json` raises."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Broken in the middle, or only cut off where the text stops? Reading on after each fault would read the whole file.
                if self.ended or not (error.msg.startswith("Unterminated") or error.pos > len(self.text) - UNFINISHED):
                    raise
            else:
                if end < len(self.text) - UNFINISHED or self.ended:  # else it may be a number that goes on: "1" of "1.5", cut behind "1."
                    text, self.at = self.text[self.at : end], end
                    return value, text
            self.more()

    def place(self, at: int) -> tuple[int, int]:
        """Line and column, both counted from 1."""
        lines = self.text.count("\n", 0, at)
        return self._line + lines, at - self.text.rfind("\n", 0, at) if lines else self._column + at


def _listed(text: _Text, name: str) -> Iterator[Raw]:
    """The elements of the list that the text has reached; what is broken ends it, since nothing tells where the next one starts."""
    text.at += 1
    mark = "" if text.next() == "]" else ","
    while mark == ",":
        try:
            text.next()
            value, piece = text.value()
        except (ValueError, RecursionError) as error:
            yield _broken(text, name, getattr(error, "msg", str(error)), getattr(error, "pos", text.at))
            return
        if _is_unicode(piece, value):
            yield value
        else:
            message = f"{name} line {text.place(text.at)[0]}: bytes that are not UTF-8, or half of a surrogate pair{_REWRITE}"
            yield BadRecord("not_utf8", message)
        mark = text.next()
        if mark == ",":
            text.at += 1
    if text.next() != "]":
        yield _broken(text, name, "expected ',' or ']'" if text.next() else "the file ends within the list", text.at)
        return
    text.at += 1
    if text.next():
        yield _broken(text, name, "something stands behind the end of the list", text.at)


def _broken(text: _Text, name: str, reason: str, at: int) -> BadRecord:
    line, column = text.place(at)
    remedy = "the rest of the file cannot be read; repair it, or write the file again"
    return BadRecord("broken_file", f"{name} line {line}: not valid JSON ({reason}, column {column}); {remedy}")


def _lines(opened: Iterable[bytes], name: str) -> Iterator[Raw]:
    for number, line in enumerate(opened, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            yield parse(content.rstrip(), f"{name} line {number}")


def _check_lines(text: _Text, file: Path, known: Collection[str]) -> None:
    """Raises where a file that starts with an object is one object, rather than one a line."""
    head = text.text[text.at :]
    first, _, rest = head.partition("\n")
    second = rest.lstrip().partition("\n")[0]
    if second and any(isinstance(parse(line.encode(errors="replace"), ""), dict) for line in (first, second)):
        return
    keys = _keys(head)
    if not second and not keys.keys().isdisjoint(known):
        return
    lists = [key for key, is_list in keys.items() if is_list]
    wraps = len(lists) == 1 and lists[0] not in known
    remedy = f"write the list in {lists[0]!r} alone into a file" if wraps else "put [ and ] around it, or write it on one line"
    found = f"a JSON object with the keys {', '.join(keys) or 'none'}"
    raise ValueError(f"{file} holds {found:.200}; expected a JSON list of records, or one record a line; {remedy}")


def _keys(text: str) -> dict[str, bool]:
    """The keys of an object, as far as its text goes, with whether a list stands behind them."""
    found, at = {}, 1
    try:
        while True:
            key, at = DECODER.raw_decode(text, GAP.match(text, at).end())  # type: ignore[union-attr]
            at = GAP.match(text, at).end()  # type: ignore[union-attr]
            found[str(key)] = text[at] == "["
            _, at = DECODER.raw_decode(text, at)
    except (ValueError, IndexError, RecursionError):
        return found


def _is_unicode(text: str, value: Any) -> bool:
    """Whether a value can be written as UTF-8; `text` is its JSON."""
    try:
        text.encode()
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb")  # type: ignore[return-value]
