"""Batched greedy answers of a model, for questions with pictures as well as without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.chat import render_prompts
from data.conversation import Conversation
from data.images import load_image
from data.pictures import pictures_of
from model.processor import tokenizer_of


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to be answered.

    Attributes:
        conversation: The dialogue; the text of its last assistant turn is not shown to the model.
        max_tokens: Longest answer, in tokens.
        expected_tokens: Length to be expected, in tokens; only the order of work depends on it.
    """

    conversation: Conversation
    max_tokens: int
    expected_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One greedy answer: its text, and its token ids with the closing token if the model wrote one."""

    text: str
    token_ids: tuple[int, ...]


@torch.inference_mode()
def answer(model: Any, processor: Any, requests: Sequence[Request], *, batch_size: int = 64, progress: bool = True) -> list[Answer]:
    """Answers `requests` greedily, in their order.

    Questions with pictures, whose prompts are long, stay apart from those without; each kind is ordered by the expected length
    of its answers, so that a batch pads little and ends together. What a request is batched with does not change its answer.
    Each picture passes the tower once, with its prompt.

    Args:
        model: Any transformers model that generates; it is put into evaluation mode for the time of the call.
        processor: Its processor, or its tokenizer if no request has a picture.
        requests: The questions.
        batch_size: Questions in one pass.
        progress: Whether to show a bar with the remaining time.

    Raises:
        ValueError: A request has a picture, the processor reads none.
    """
    from tqdm import tqdm

    tokenizer = tokenizer_of(processor)
    mark = pictures_of(processor).mark
    prompts = render_prompts([request.conversation for request in requests], tokenizer, mark=mark)
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].conversation.images), requests[i].expected_tokens, len(prompts[i])))
    answers: dict[int, Answer] = {}
    training = model.training
    model.eval()
    try:
        with tqdm(total=len(requests), desc="answering", unit="question", disable=not progress, leave=False) as bar:
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                batch = _answer_batch(model, processor, [prompts[i] for i in chosen], [requests[i] for i in chosen])
                answers |= zip(chosen, batch, strict=True)
                bar.update(len(chosen))
    finally:
        model.train(training)
    return [answers[i] for i in range(len(requests))]


def encode_batch(processor: Any, prompts: Sequence[str], conversations: Sequence[Conversation], device: Any) -> dict[str, Any]:
    """The model's inputs for a batch of prompts, padded at the left; `pixel_values` only where there are pictures."""
    images = [[load_image(path) for path in conversation.images] for conversation in conversations if conversation.images]
    if images and not hasattr(processor, "image_processor"):
        raise ValueError(
            f"{len(images)} questions of this batch have pictures, but the checkpoint has no picture processor; "
            "evaluate a text-only model on tasks without pictures"
        )
    # The chat template has written all special tokens; a left-padded prompt ends where its answer begins.
    batch = processor(
        text=list(prompts),
        **({"images": images} if images else {}),
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    )
    return {name: value.to(device) for name, value in batch.items() if name != "token_type_ids"}


def _answer_batch(model: Any, processor: Any, prompts: list[str], requests: list[Request]) -> list[Answer]:
    from transformers import GenerationConfig

    tokenizer = tokenizer_of(processor)
    inputs = encode_batch(processor, prompts, [request.conversation for request in requests], model.device)
    stop = stop_ids(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=max(request.max_tokens for request in requests),
        do_sample=False,
        use_cache=True,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0],
    )
    written = model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :].tolist()
    ids = [_cut(row[: request.max_tokens], stop) for row, request in zip(written, requests, strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [Answer(text=text.strip(), token_ids=tuple(row)) for text, row in zip(texts, ids, strict=True)]


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings, with the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None})


def _cut(ids: list[int], stop: Sequence[int]) -> list[int]:
    """`ids` up to the first closing token, included; what follows is padding."""
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids
