"""Token ids with their loss mask, from the tokenizer's own chat template."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.conversation import IMAGE_MARK, Conversation
from data.pictures import NO_PICTURES, Pictures
from data.template import Skeleton, render_messages, take_apart

LossOn = Literal["assistant", "all"]

LOSS_ROLES = {"assistant": ("assistant",), "all": ("assistant", "user")}
NO_TOKEN = -1  # of a text-only tokenizer
CHUNK = 4096  # dialogues tokenised in one call: quick, with little memory for the offsets


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One dialogue as the model reads it.

    Attributes:
        input_ids: Token ids; each picture is as many copies of the image token as the model makes features of it.
        labels_mask: For each token, whether predicting it counts in the loss.
    """

    input_ids: list[int]
    labels_mask: list[bool]


def encode(conversation: Conversation, tokenizer: Any, *, pictures: Pictures = NO_PICTURES, loss_on: LossOn = "assistant") -> Encoded:
    """Encodes one dialogue; see `encode_all` for the rules."""
    ids, mask = next(encode_all([conversation], tokenizer, pictures=pictures, loss_on=loss_on))
    return Encoded(input_ids=ids.tolist(), labels_mask=mask.tolist())


def encode_all(
    conversations: Sequence[Conversation], tokenizer: Any, *, pictures: Pictures = NO_PICTURES, loss_on: LossOn = "assistant"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encodes dialogues one after another, many in each call of the tokenizer.

    A turn that carries loss carries it on its text and on what the template writes to close it (the token that ends the
    turn). Openers, system turns and image tokens never do.

    Args:
        conversations: The dialogues.
        tokenizer: A fast tokenizer with a chat template, and an image token if there are pictures.
        pictures: How the model shows pictures.
        loss_on: "assistant": the assistant's turns; "all": the user's as well, as a model needs that writes dialogues itself.

    Yields:
        Token ids (int32) and loss mask (bool), both of shape [tokens].

    Raises:
        ValueError: The template refuses a dialogue or rewrites its text; the message names the record.
    """
    skeletons: dict[tuple[str, ...], Skeleton] = {}
    image_id = tokenizer.convert_tokens_to_ids(pictures.token)
    if image_id is None or image_id == tokenizer.unk_token_id:
        image_id = NO_TOKEN
    for first in range(0, len(conversations), CHUNK):
        chunk = conversations[first : first + CHUNK]
        rendered = [_render(one, tokenizer, skeletons, LOSS_ROLES[loss_on], pictures.mark) for one in chunk]
        # Special tokens are text in the rendering, so none are added here (a doubled <s> is the classic fault).
        batch = tokenizer(
            [text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        for one, (_, spans), ids, offsets in zip(chunk, rendered, batch["input_ids"], batch["offset_mapping"], strict=True):
            yield _expand(np.asarray(ids, np.int32), np.asarray(offsets), spans, image_id, pictures.tokens(one.images))


def render_prompt(conversation: Conversation, tokenizer: Any, *, mark: str = IMAGE_MARK, rounds: int | None = None) -> str:
    """The text that a model continues with the answer: all up to the opener of the last assistant turn, included.

    Args:
        conversation: A dialogue that ends with the assistant's turn, whose text is left out, or with the user's.
        tokenizer: Its template is used.
        mark: What stands for one picture in the model's text.
        rounds: How many rounds of question and answer to keep, the last one without its answer; all when None.
    """
    turns = conversation.turns
    if rounds is not None:
        ends = [position for position, turn in enumerate(turns) if turn.role == "assistant"]
        turns = turns[: ends[rounds - 1] + 1]
    roles, texts = [turn.role for turn in turns], [turn.text.replace(IMAGE_MARK, mark) for turn in turns]
    if roles[-1] != "assistant":
        return render_messages(roles, texts, tokenizer, add_generation_prompt=True)
    skeleton = _skeleton(conversation, tuple(roles), tokenizer, {})
    prompt = "".join(piece + text for piece, text in zip(skeleton.pieces, skeleton.texts(texts)[:-1] + [""], strict=False))
    return prompt[: len(prompt) - _blanks(prompt)]


def prompt_ids(conversation: Conversation, tokenizer: Any, *, pictures: Pictures = NO_PICTURES, rounds: int | None = None) -> list[int]:
    """Token ids of `render_prompt`, each picture expanded to its tokens."""
    first, *rest = render_prompt(conversation, tokenizer, mark=pictures.mark, rounds=rounds).split(pictures.token)
    counts = pictures.tokens(conversation.images[: len(rest)])
    text = first + "".join(pictures.token * count + piece for count, piece in zip(counts, rest, strict=True))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _blanks(opener: str) -> int:
    """Blanks at the end of an opener ("ASSISTANT: "). A tokenizer joins them to the answer's first word, so they are the answer's."""
    return len(opener) - len(opener.rstrip(" "))


def _skeleton(conversation: Conversation, roles: tuple[str, ...], tokenizer: Any, known: dict[tuple[str, ...], Skeleton]) -> Skeleton:
    if roles not in known:
        try:
            known[roles] = take_apart(roles, tokenizer)
        except ValueError as error:
            raise ValueError(f"{conversation.where}: {error}; change the record's turns, or the template") from error
    return known[roles]


def _render(
    conversation: Conversation, tokenizer: Any, known: dict[tuple[str, ...], Skeleton], loss_roles: tuple[str, ...], mark: str
) -> tuple[str, list[tuple[int, int]]]:
    """The whole text, then the characters (first, behind the last) that carry loss."""
    roles = tuple([turn.role for turn in conversation.turns])
    skeleton = known.get(roles) or _skeleton(conversation, roles, tokenizer, known)
    contents = [turn.text for turn in conversation.turns]
    if conversation.images and mark != IMAGE_MARK:
        contents = [text.replace(IMAGE_MARK, mark) for text in contents]
    texts = skeleton.texts(contents)
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for role, piece, text, closer in zip(roles, skeleton.pieces, texts, skeleton.closers, strict=False):
        parts += (piece, text)
        length += len(piece) + len(text)
        if role in loss_roles:
            spans.append((length - len(text) - _blanks(piece), length + len(closer)))
    whole = "".join(parts) + skeleton.pieces[-1]
    # Templates look into texts for markup only ("</think>"); where there could be some, compare with the template itself.
    if any("<" in text.replace(mark, "") for text in contents):
        _compare(conversation, contents, whole, tokenizer)
    return whole, spans


def _compare(conversation: Conversation, contents: Sequence[str], text: str, tokenizer: Any) -> None:
    try:
        equal = text == render_messages([turn.role for turn in conversation.turns], contents, tokenizer)
    except ValueError:
        equal = False
    if not equal:
        raise ValueError(f"{conversation.where}: the chat template rewrites the text of a turn; remove its markup from the record")


def _expand(
    ids: np.ndarray, offsets: np.ndarray, spans: Sequence[tuple[int, int]], image_id: int, image_tokens: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Marks the tokens that begin inside a span, then repeats image tokens, which never carry loss."""
    mask = np.zeros(len(ids), bool)
    starts = offsets[:, 0] if len(ids) else offsets
    for first, last in spans:
        mask[np.searchsorted(starts, first) : np.searchsorted(starts, last)] = True
    is_image = ids == image_id
    if is_image.any():
        mask &= ~is_image
        repeats = np.ones(len(ids), np.int64)
        repeats[is_image] = image_tokens
        ids, mask = np.repeat(ids, repeats), np.repeat(mask, repeats)
    return ids, mask
