"""Raw records become rows of an index."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.chat import ChatFormat, Encoded, Formatter, Rendered
from data.config import SourceConfig
from data.conversation import IMAGE_MARK, Conversation, Turn
from data.fetch import fetched
from data.images import ImageSource, inspect
from data.problems import BadRecord
from data.readers import read_record

RawRecord = tuple[int, Any]  # position in its source, then a record or the BadRecord that stands in its place
Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that decides how a raw record becomes rows; other processes get it pickled.

    Attributes:
        source: Where the records come from; its `image_root` is absolute.
        format: How dialogues become tokens.
        cache: Folder for fetched pictures.
        allow_urls: Whether pictures may be fetched.
        split_at: Split dialogues longer than so many tokens between their rounds, documents anywhere; None: never.
    """

    source: SourceConfig
    format: ChatFormat
    cache: Path
    allow_urls: bool = False
    split_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample of an index.

    Attributes:
        record: Position of the record in its source.
        id: The record's id; None where the file gives none.
        encoded: Ids with what carries loss.
        images: Its pictures.
        sizes: Height, width of each.
    """

    record: int
    id: str | None
    encoded: Encoded
    images: tuple[ImageSource, ...]
    sizes: tuple[Size, ...]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What became of some records.

    Attributes:
        records: How many there were.
        rows: One for each good record; more where a long one was split.
        problems: (record, kind, message without place) of each bad record.
        repairs: How often each oddity was put right.
        bad_files: Files of pictures that could not be used -> (bytes, time of change in ns); (-1, -1): there was none.
    """

    records: int
    rows: list[Row] = field(default_factory=list)
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    bad_files: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ready:
    """A record before its tokens are known."""

    conversation: Conversation
    rendered: Rendered
    sizes: tuple[Size, ...]
    image_tokens: list[int]
    id: str | None


class Encoder:
    """Encodes chunks of records one after another."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._formatter = Formatter(work.format)

    def __call__(self, records: Sequence[RawRecord]) -> Chunk:
        """Reads, checks, formats, tokenises; a bad record becomes a problem, whatever is wrong with it."""
        chunk = Chunk(records=len(records))
        seen: dict[ImageSource, Size] = {}
        ready: list[_Ready] = []
        for number, raw in records:
            try:
                if isinstance(raw, BadRecord):
                    raise raw
                conversation = read_record(raw, self._work.source, number)
                chunk.repairs.update(conversation.repairs)
                named = isinstance(raw, dict) and raw.get(self._work.source.columns.get("id", "id")) not in (None, "")
                ready.append(self._prepare(self._with_files(conversation), named, seen, chunk.bad_files))
            except BadRecord as problem:
                chunk.problems.append((number, problem.kind, problem.message))
        for one, encoded in zip(ready, self._tokenise(ready), strict=True):
            self._add(one, encoded, chunk)
        chunk.problems.sort()
        return chunk

    def _with_files(self, conversation: Conversation) -> Conversation:
        """Fetches what is given as an address."""
        addresses = [image.path for image in conversation.images if image.is_url]
        if addresses and not self._work.allow_urls:
            message = f"image {addresses[0]} is an address; set data.allow_urls: true to fetch it, or give a file"
            raise BadRecord("url_not_allowed", message)
        images = [fetched(image, self._work.cache) if image.is_url else image for image in conversation.images]
        return replace(conversation, images=tuple(images))

    def _prepare(
        self, conversation: Conversation, named: bool, seen: dict[ImageSource, Size], bad_files: dict[str, tuple[int, int]]
    ) -> _Ready:
        pictures = self._work.format.pictures
        if conversation.images and pictures.none:
            raise BadRecord("image_without_tower", "has an image, but the model has no vision tower; give text-only data or another model")
        for image in conversation.images:
            if image not in seen:
                try:
                    seen[image] = inspect(image)
                except BadRecord:
                    if image.data is None:
                        bad_files[image.path] = state_of(image.path)
                    raise
        sizes = tuple(seen[image] for image in conversation.images)
        try:
            image_tokens = pictures.tokens(sizes)
        except ValueError as error:
            message = f"the model's processor refuses an image of (height, width) {', '.join(map(str, sizes))}: {error}; change the image"
            raise BadRecord("image_refused", message) from error
        return _Ready(conversation, self._formatter.render(conversation), sizes, image_tokens, conversation.id if named else None)

    def _tokenise(self, ready: Sequence[_Ready]) -> Iterator[Encoded]:
        return self._formatter.tokenise([one.rendered for one in ready], [one.image_tokens for one in ready])

    def _add(self, one: _Ready, encoded: Encoded, chunk: Chunk) -> None:
        number, limit = one.conversation.record, self._work.split_at
        pieces = [(one, encoded)]
        if limit is not None and len(encoded.input_ids) > limit:
            pieces = list(self._split(one, encoded, limit)) or pieces
        if not any(learns(part) for _, part in pieces):
            chunk.problems.append((number, "nothing_to_learn", self._lacking(one.conversation)))
            return
        if len(pieces) > 1:
            chunk.repairs.update({"split": 1, "piece_without_loss": sum(not learns(part) for _, part in pieces)})
        for piece, part in pieces:
            if learns(part):
                chunk.rows.append(Row(record=number, id=one.id, encoded=part, images=piece.conversation.images, sizes=piece.sizes))

    def _settled(self, one: _Ready) -> _Ready:
        """In its pieces, what carries loss in the whole dialogue does so alone: a piece's last turn need not be the dialogue's."""
        turns = zip(one.conversation.turns, self._formatter.carrying(one.conversation), strict=True)
        settled = tuple(turn if carries else replace(turn, weight=0.0) for turn, carries in turns)
        return replace(one, conversation=replace(one.conversation, turns=settled))

    def _lacking(self, conversation: Conversation) -> str:
        if conversation.is_document:
            return "every part of the text weighs 0, so nothing can be learned; correct its weights, or remove the record"
        carrying = "no turn of the assistant" if self._work.format.loss_on == "assistant" else "no turn"
        return f"{carrying} has text that carries loss, so nothing can be learned; give an answer, or remove the record"

    def _split(self, one: _Ready, encoded: Encoded, limit: int) -> Iterator[tuple[_Ready, Encoded]]:
        """A sample in pieces that fit; nothing where that cannot be."""
        if one.conversation.is_document:
            return ((one, piece) for piece in cut(encoded, limit))
        return self._by_rounds(self._settled(one), limit)

    def _by_rounds(self, one: _Ready, limit: int) -> Iterator[tuple[_Ready, Encoded]]:
        """The dialogue in pieces of as many rounds as fit; nothing where a round alone is too long."""
        rounds = _rounds(one.conversation)
        pieces, first = [], 0
        while first < len(rounds):
            fitting = None
            for last in range(first + 1, len(rounds) + 1):
                piece = self._piece(one, rounds, first, last)
                encoded = next(self._tokenise([piece]))
                if len(encoded.input_ids) > limit:
                    break
                fitting = (piece, encoded, last)
            if fitting is None:
                return
            pieces.append(fitting[:2])
            first = fitting[2]
        yield from pieces

    def _piece(self, one: _Ready, rounds: Sequence[tuple[Turn, ...]], first: int, last: int) -> _Ready:
        """Some rounds behind the system turn; pictures of earlier rounds, which may still be spoken of, are shown again at their head."""
        whole = one.conversation
        head = tuple(turn for turn in whole.turns[:1] if turn.role == "system")
        before, inside = (sum(turn.text.count(IMAGE_MARK) for part in rounds[a:b] for turn in part) for a, b in ((0, first), (first, last)))
        opening, *others = [turn for part in rounds[first:last] for turn in part]
        opening = replace(opening, text=f"{IMAGE_MARK}\n" * before + opening.text)
        count = before + inside
        conversation = replace(whole, turns=(*head, opening, *others), images=whole.images[:count])
        sizes = one.sizes[:count]
        return _Ready(conversation, self._formatter.render(conversation), sizes, self._work.format.pictures.tokens(sizes), one.id)


def cut(encoded: Encoded, limit: int) -> Iterator[Encoded]:
    """A document in pieces of at most `limit` tokens.

    Each begins with the last token of the one before, which it only reads: every token of the document but the first is learned in exactly
    one piece.
    """
    ids, spans = encoded.input_ids, encoded.spans
    for start in range(0, len(ids) - 1, limit - 1):
        inside = np.stack([np.clip(spans[:, 0] - start, 1, limit), np.clip(spans[:, 1] - start, 0, limit)], axis=1).astype(np.int32)
        is_left = inside[:, 0] < inside[:, 1]
        yield Encoded(input_ids=ids[start : start + limit], spans=inside[is_left], weights=encoded.weights[is_left])


def learns(encoded: Encoded) -> bool:
    """Whether any token that something predicts carries loss."""
    return bool((np.minimum(encoded.spans[:, 1], len(encoded.input_ids)) > np.maximum(encoded.spans[:, 0], 1)).any())


def state_of(path: str) -> tuple[int, int]:
    """Bytes with time of change of a file; (-1, -1) where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _rounds(conversation: Conversation) -> list[tuple[Turn, ...]]:
    """The turns from each of the user's to the next, the system turn left out."""
    rounds: list[list[Turn]] = []
    for turn in conversation.turns:
        if turn.role == "system" and not rounds:
            continue
        if turn.role == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(turn)
    return [tuple(one) for one in rounds]
