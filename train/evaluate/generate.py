"""Batched answers of a model, greedy unless asked otherwise, for questions with pictures as well as without."""

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
    """One answer: its text, and its token ids with the closing token if the model wrote one."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the tokens of answers are chosen; greedily unless one of beams, temperature says otherwise.

    Attributes:
        beams: Answers that a search for the most probable one keeps in view; 1: no search. Does not go with a temperature.
        temperature: Of sampling; 0: no sampling.
        top_p: Sampling takes the likeliest tokens that reach this share of the probability together, in (0, 1].
        seed: Draws the tokens; each question has its own numbers.
        streamer: Gets the prompt, then every token as soon as it is chosen (transformers' streamers); one question at a time, no beams.
    """

    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    streamer: Any = None

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range, or that do not go together."""
        for name, fits, expected in (
            ("beams", self.beams >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (no sampling) or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected {expected}")
        if self.beams > 1 and (self.temperature > 0 or self.streamer is not None):
            raise ValueError(
                f"beams: a search with {self.beams} beams neither samples nor streams; set temperature to 0, leave streamer out"
            )


GREEDY = Decoding()


@torch.inference_mode()
def answer(
    model: Any,
    processor: Any,
    requests: Sequence[Request],
    *,
    batch_size: int = 64,
    progress: bool = True,
    decoding: Decoding = GREEDY,
) -> list[Answer]:
    """Answers `requests`, in their order.

    Questions with pictures, whose prompts are long, stay apart from those without; each kind is ordered by the expected length
    of its answers, so that a batch pads little and ends together. What a request is batched with does not change its answer.
    Each picture passes the tower once, with its prompt.

    Args:
        model: Any transformers model that generates; it is put into evaluation mode for the time of the call.
        processor: Its processor, or its tokenizer if no request has a picture.
        requests: The questions.
        batch_size: Questions in one pass.
        progress: Whether to show a bar with the remaining time.
        decoding: How tokens are chosen.

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
                seeds = [decoding.seed + i for i in chosen]
                batch = _answer_batch(model, processor, [prompts[i] for i in chosen], [requests[i] for i in chosen], decoding, seeds)
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


def _answer_batch(
    model: Any, processor: Any, prompts: list[str], requests: list[Request], decoding: Decoding, seeds: list[int]
) -> list[Answer]:
    from transformers import GenerationConfig

    tokenizer = tokenizer_of(processor)
    inputs = encode_batch(processor, prompts, [request.conversation for request in requests], model.device)
    stop = stop_ids(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=max(request.max_tokens for request in requests),
        do_sample=False,  # `_draws` chooses where tokens are sampled
        num_beams=decoding.beams,
        use_cache=True,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0],
    )
    draws = _draws(decoding, settings, seeds, model.device)
    output = model.generate(**inputs, generation_config=settings, logits_processor=draws, streamer=decoding.streamer)
    written = output[:, inputs["input_ids"].shape[1] :].tolist()
    ids = [_cut(row[: request.max_tokens], stop) for row, request in zip(written, requests, strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [Answer(text=text.strip(), token_ids=tuple(row)) for text, row in zip(texts, ids, strict=True)]


def _draws(decoding: Decoding, settings: Any, seeds: list[int], device: Any) -> list[Any]:
    """What chooses the tokens in place of `generate`, which samples from the global random numbers."""
    from data.trees.engine import Sampling
    from data.trees.transformers_engine import Draw

    if decoding.temperature == 0:
        return []
    stop, padding = tuple(settings.eos_token_id), settings.pad_token_id
    sampling = Sampling(max_tokens=settings.max_new_tokens, temperature=decoding.temperature, top_p=decoding.top_p, stop_ids=stop)
    return [Draw(seeds, sampling, None if padding in stop else padding, device)]


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
