"""Token ids with what carries loss, from the tokenizer's own chat template."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, Literal

import numpy as np

from data.conversation import IMAGE_MARK, Conversation
from data.documents import Span, between, ends_of, spans_of
from data.images import ImageSource, image_size
from data.pictures import NO_PICTURES, Pictures
from data.problems import BadRecord
from data.template import Skeleton, render_messages, sought, take_apart

LossOn = Literal["assistant", "all"]

LOSS_ROLES = {"assistant": ("assistant",), "all": ("assistant", "user")}
NO_TOKEN = -1  # of a tokenizer that knows no pictures
_BETWEEN = "\ue000"  # keeps texts apart that are searched as one


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """All that decides ids and loss; other processes get it pickled.

    Attributes:
        tokenizer: A fast tokenizer with a chat template, and an image token if there are pictures.
        pictures: How the model shows pictures.
        loss_on: "assistant": the assistant's turns; "all": the user's as well, as a model needs that writes dialogues itself.
        turns: "all" of those turns, or only the "last" of them whose weight is not 0.
        thinking: What the template gets as `enable_thinking`.
    """

    tokenizer: Any
    pictures: Pictures = NO_PICTURES
    loss_on: LossOn = "assistant"
    turns: Literal["all", "last"] = "all"
    thinking: bool = False


@dataclass(frozen=True)
class Rendered:
    """A dialogue or a document as text.

    Attributes:
        text: All that the template writes, each picture as one mark; of a document its text alone.
        spans: Characters that carry loss, in order, never overlapping.
        is_document: Whether the tokenizer's own marks go around it; a dialogue's are in the text.
    """

    text: str
    spans: tuple[Span, ...]
    is_document: bool = False


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A dialogue or a document as the model reads it.

    Attributes:
        input_ids: int32 [tokens]; each picture is as many copies of the image token as the model makes features of it.
        spans: int32 [spans, 2]: runs of tokens (first, behind the last) that carry loss of one weight, as long as can be.
        weights: float32 [spans]: each run's weight, never 0.
    """

    input_ids: np.ndarray
    spans: np.ndarray
    weights: np.ndarray

    @property
    def labels_mask(self) -> np.ndarray:
        """Whether predicting each token counts in the loss, bool [tokens]."""
        mask = np.zeros(len(self.input_ids), bool)
        for first, last in self.spans.tolist():
            mask[first:last] = True
        return mask


class Formatter:
    """Turns dialogues and plain documents into text, text into ids.

    A turn that carries loss carries it on its text and on what the template writes to close it (the token that ends the
    turn). Openers, system turns and pictures never do. All of a document does, with the end-of-sequence token behind it.
    """

    def __init__(self, format: ChatFormat) -> None:
        self._format = format
        self._skeletons: dict[tuple[str, ...], Skeleton] = {}
        tokenizer, pictures = format.tokenizer, format.pictures
        self._roles = LOSS_ROLES[format.loss_on]
        self._reserved = _any_of(control_tokens(tokenizer, pictures))
        self._suspect = _any_of([*control_tokens(tokenizer, pictures), *sought(_template(tokenizer))])
        image_id = tokenizer.convert_tokens_to_ids(pictures.token)
        self._image_id = NO_TOKEN if image_id in (None, tokenizer.unk_token_id) else image_id

    def render(self, conversation: Conversation) -> Rendered:
        """The text of a dialogue.

        Raises:
            BadRecord: The template refuses the turns or changes a text, or a text holds a control token.
        """
        if conversation.is_document:
            self._check_tokens(["".join(part.text for part in conversation.turns)], "the text")
            return Rendered("".join(part.text for part in conversation.turns), spans_of(conversation.turns), is_document=True)
        roles = tuple([turn.role for turn in conversation.turns])
        skeleton = self._skeletons.get(roles) or self._skeleton(roles)
        contents = [turn.text for turn in conversation.turns]
        bare, mark = contents, None
        if conversation.images:
            mark = self._format.pictures.mark
            _check_marks(conversation)
            bare = [text.replace(IMAGE_MARK, _BETWEEN) for text in contents]
            contents = contents if mark == IMAGE_MARK else [text.replace(IMAGE_MARK, mark) for text in contents]
        suspect = self._suspect.search(_BETWEEN.join(bare)) is not None
        if suspect:
            self._check_tokens(bare)
        texts = skeleton.texts(contents)
        rendered = self._put_together(conversation, skeleton, texts, mark)
        # A skeleton tells what the template does with any text that is neither blank nor looked into.
        if suspect or not all(map(str.strip, texts)) or (skeleton.strips_some and texts != [text.strip() for text in texts]):
            self._compare(skeleton, contents, rendered.text)
        return rendered

    def tokenise(self, rendered: Sequence[Rendered], image_tokens: Sequence[Sequence[int]]) -> Iterator[Encoded]:
        """Ids of dialogues, all in one call of the tokenizer.

        Args:
            rendered: What `render` made.
            image_tokens: For each dialogue, how many tokens each of its pictures takes.

        Raises:
            ValueError: A dialogue holds more or fewer image tokens than pictures.
        """
        if not rendered:
            return
        # Special tokens are text in the rendering, so none are added here (a doubled <s> is the classic fault).
        batch = self._format.tokenizer(
            [one.text for one in rendered],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for one, ids, encoding, counts in zip(rendered, batch["input_ids"], batch.encodings, image_tokens, strict=True):
            bounds = [(_token_at(first, one.text, encoding), _token_at(last, one.text, encoding)) for first, last, _ in one.spans]
            spans = [(first, last, weight) for (first, last), (_, _, weight) in zip(bounds, one.spans, strict=True)]
            ids = np.asarray(ids, np.int32)
            if one.is_document:
                ids, spans = between(self._ends, ids, spans)
            yield self._encoded(ids, spans, counts)

    def carrying(self, conversation: Conversation) -> list[bool]:
        """Which turns of a dialogue carry loss."""
        carrying = [turn.role in self._roles and turn.weight > 0 for turn in conversation.turns]
        if self._format.turns == "last" and True in carrying:
            last = len(carrying) - 1 - carrying[::-1].index(True)
            carrying = [number == last for number in range(len(carrying))]
        return carrying

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        return ends_of(self._format.tokenizer)

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton:
        try:
            found = take_apart(roles, self._format.tokenizer, thinking=self._format.thinking)
        except ValueError as error:
            raise BadRecord("template_refused", f"{error}; change the record's turns, or the template") from error
        self._skeletons[roles] = found
        return found

    def _check_tokens(self, texts: Sequence[str], name: str = "turn {}") -> None:
        for number, text in enumerate(texts):
            if found := self._reserved.search(text):
                raise BadRecord(
                    "reserved_token",
                    f"{name.format(number)} holds {found[0]!r}, which the tokenizer reads as a control token, not as text; "
                    "write it in another way, or remove the record",
                )

    def _put_together(self, conversation: Conversation, skeleton: Skeleton, texts: Sequence[str], mark: str | None) -> Rendered:
        carrying = self.carrying(conversation)
        parts: list[str] = []
        spans: list[Span] = []
        length = 0
        for number, (piece, text) in enumerate(zip(skeleton.pieces, texts, strict=False)):
            parts += (piece, text)
            start = length + len(piece)
            length = start + len(text)
            if carrying[number]:
                weight = conversation.turns[number].weight
                inside = _around(text, mark, start) if mark and mark in text else [(start, length)]
                inside[0] = (inside[0][0] - _blanks(piece), inside[0][1])
                inside[-1] = (inside[-1][0], length + len(skeleton.closers[number]))
                spans += [(first, behind, weight) for first, behind in inside if first < behind]
        parts.append(skeleton.pieces[-1])
        return Rendered("".join(parts), tuple(spans))

    def _compare(self, skeleton: Skeleton, contents: Sequence[str], text: str) -> None:
        """Makes sure that the skeleton says what the template itself writes."""
        tokenizer, thinking = self._format.tokenizer, self._format.thinking
        try:
            theirs = render_messages(skeleton.roles, contents, tokenizer, thinking=thinking, in_parts=skeleton.in_parts)
        except ValueError as error:
            raise BadRecord("template_refused", f"{error}; change the record's texts, or the template") from error
        if text != theirs:
            raise BadRecord(
                "text_rewritten",
                "the chat template rewrites the text of a turn, or writes something else around it for what it holds (markup such as "
                "</think>, or nothing at all); change that text, or the template",
            )

    def _encoded(self, ids: np.ndarray, spans: Sequence[Span], counts: Sequence[int]) -> Encoded:
        """Repeats image tokens, which never carry loss."""
        places: list[int] = []
        if len(counts):
            places = np.flatnonzero(ids == self._image_id).tolist()
            if len(places) != len(counts):
                raise ValueError(
                    f"{len(places)} image tokens {self._format.pictures.token!r} in the ids of a dialogue with {len(counts)} pictures; "
                    "the tokenizer must know this token, and the chat template must not touch it"
                )
            repeats = np.ones(len(ids), np.int64)
            repeats[places] = counts
            ids = np.repeat(ids, repeats)
        runs = _runs(spans, places, counts)
        return Encoded(
            input_ids=ids,
            spans=np.array([run[:2] for run in runs], np.int32).reshape(-1, 2),
            weights=np.array([run[2] for run in runs], np.float32),
        )


def encode(conversation: Conversation, tokenizer: Any, *, pictures: Pictures = NO_PICTURES, loss_on: LossOn = "assistant") -> Encoded:
    """Encodes one dialogue.

    Raises:
        BadRecord: As `Formatter.render` does; the message names the record.
    """
    formatter = Formatter(ChatFormat(tokenizer=tokenizer, pictures=pictures, loss_on=loss_on))
    try:
        rendered = formatter.render(conversation)
    except BadRecord as problem:
        raise BadRecord(problem.kind, f"{conversation.where}: {problem.message}") from problem
    return next(formatter.tokenise([rendered], [_image_tokens(conversation.images, pictures)]))


def render_prompt(
    conversation: Conversation, tokenizer: Any, *, mark: str = IMAGE_MARK, rounds: int | None = None, thinking: bool = False
) -> str:
    """The text that a model continues with the answer: all up to the opener of the last assistant turn, included.

    Args:
        conversation: A dialogue that ends with the assistant's turn, whose text is left out, or with the user's.
        tokenizer: Its template is used.
        mark: What stands for one picture in the model's text.
        rounds: How many rounds of question and answer to keep, the last one without its answer; all when None.
        thinking: What the template gets as `enable_thinking`.

    Raises:
        ValueError: The template refuses the turns; the message names the record.
    """
    turns = conversation.turns
    if rounds is not None:
        ends = [position for position, turn in enumerate(turns) if turn.role == "assistant"]
        turns = turns[: ends[rounds - 1] + 1]
    return _prompt(
        replace(conversation, turns=turns), tokenizer, mark, partial(take_apart, tokenizer=tokenizer, thinking=thinking), thinking
    )


def render_prompts(conversations: Sequence[Conversation], tokenizer: Any, *, mark: str = IMAGE_MARK) -> list[str]:
    """`render_prompt` of many dialogues, whose template is taken apart once for each sequence of roles."""
    apart = cache(partial(take_apart, tokenizer=tokenizer))
    return [_prompt(conversation, tokenizer, mark, apart, thinking=False) for conversation in conversations]


def _prompt(conversation: Conversation, tokenizer: Any, mark: str, apart: Callable[[tuple[str, ...]], Skeleton], thinking: bool) -> str:
    roles = tuple([turn.role for turn in conversation.turns])
    texts = [turn.text.replace(IMAGE_MARK, mark) for turn in conversation.turns]
    try:
        if roles[-1] != "assistant":
            return render_messages(roles, texts, tokenizer, add_generation_prompt=True, thinking=thinking)
        skeleton = apart(roles)
    except ValueError as error:
        raise ValueError(f"{conversation.where}: {error}; change the record's turns, or the template") from error
    prompt = "".join(piece + text for piece, text in zip(skeleton.pieces, skeleton.texts(texts)[:-1] + [""], strict=False))
    return prompt[: len(prompt) - _blanks(prompt)]


def prompt_ids(
    conversation: Conversation,
    tokenizer: Any,
    *,
    pictures: Pictures = NO_PICTURES,
    rounds: int | None = None,
    thinking: bool = False,
) -> list[int]:
    """Token ids of `render_prompt`, each picture expanded to its tokens."""
    prompt = render_prompt(conversation, tokenizer, mark=pictures.mark, rounds=rounds, thinking=thinking)
    first, *rest = prompt.split(pictures.token)
    counts = _image_tokens(conversation.images[: len(rest)], pictures)
    text = first + "".join(pictures.token * count + piece for count, piece in zip(counts, rest, strict=True))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def control_tokens(tokenizer: Any, pictures: Pictures = NO_PICTURES) -> tuple[str, ...]:
    """Strings that a tokenizer reads as control tokens wherever they stand.

    Those are its special tokens, the token of pictures, and added tokens that look like control tokens though they are not marked as
    special (DeepSeek's <｜User｜>). Other added tokens (<think>, <tool_call>) are part of what is said.
    """
    added = tokenizer.added_tokens_decoder.values()
    found = [str(token) for token in added if token.special or re.fullmatch(r"<[|｜].+[|｜]>", str(token))]
    pictured = [] if pictures.none else [pictures.token]
    return tuple(dict.fromkeys(one for one in [*found, *tokenizer.all_special_tokens, *pictured] if one.strip()))


def _template(tokenizer: Any) -> str:
    return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _check_marks(conversation: Conversation) -> None:
    marks = sum(turn.text.count(IMAGE_MARK) for turn in conversation.turns)
    if marks != len(conversation.images):
        message = f"{marks} {IMAGE_MARK} placeholders, {len(conversation.images)} pictures; give one placeholder for each picture"
        raise BadRecord("placeholder_mismatch", message)


def _image_tokens(images: Sequence[ImageSource], pictures: Pictures) -> list[int]:
    """Tokens of each picture; of files only the headers are read, and only where sizes matter."""
    return pictures.tokens([image_size(image) for image in images] if pictures.needs_sizes else [(0, 0)] * len(images))


def _blanks(opener: str) -> int:
    """Blanks at the end of an opener ("ASSISTANT: "). A tokenizer joins them to the answer's first word, so they are the answer's."""
    return len(opener) - len(opener.rstrip(" "))


def _around(text: str, mark: str, start: int) -> list[tuple[int, int]]:
    """The characters between the marks of pictures in a text that begins at `start`."""
    found = []
    for part in text.split(mark):
        found.append((start, start + len(part)))
        start += len(part) + len(mark)
    return found


def _token_at(position: int, text: str, encoding: Any) -> int:
    """Number of the first token that begins at a character, or behind it."""
    if position >= len(text):
        return len(encoding)
    token = encoding.char_to_token(position)
    if token is None:  # white space that the tokenizer drops
        return bisect_left([first for first, _ in encoding.offsets], position)
    if encoding.token_to_chars(token)[0] < position:
        return int(token) + 1
    while token and encoding.token_to_chars(token - 1)[0] >= position:  # tokens of no width
        token -= 1
    return int(token)


def _runs(spans: Sequence[Span], places: Sequence[int], counts: Sequence[int]) -> list[Span]:
    """Spans of tokens, parted and moved by the pictures at `places` that take `counts` tokens; touching ones of one weight are joined."""
    runs: list[Span] = []
    moved = number = 0
    for first, last, weight in spans:
        while number < len(places) and places[number] < last:
            place = places[number]
            if place > first:
                _append(runs, (first + moved, place + moved, weight))
            first = max(first, place + 1)
            moved += counts[number] - 1
            number += 1
        if first < last:
            _append(runs, (first + moved, last + moved, weight))
    return runs


def _append(runs: list[Span], run: Span) -> None:
    if runs and runs[-1][1:] == (run[0], run[2]):
        run = (runs.pop()[0], run[1], run[2])
    runs.append(run)
