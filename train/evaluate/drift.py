"""How probable number tokens have become where no number belongs (number-token bias, arXiv 2510.08564)."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from data.chat import render_prompts
from data.conversation import Conversation
from data.pictures import pictures_of
from model.processor import tokenizer_of
from model.shares import teacher_forced
from train.evaluate.generate import encode_batch
from train.evaluate.numbers import NUMBER_WORDS
from train.evaluate.tasks import Question, Suite

MAX_PROMPTS = 200

_NUMERAL = re.compile(r"\d+|\d*\.\d+|\d+\.|\d+(?:st|nd|rd|th)")
_SPACE_MARKERS = "Ġ▁ "


def number_token_ids(tokenizer: Any) -> list[int]:
    """Vocabulary entries that are numbers once their space marker (Ġ or ▁) is taken off.

    Numbers are whole numerals, decimals, ordinals (3rd), and the 32 words of `NUMBER_WORDS` in any case; special tokens are not.
    """
    special = set(tokenizer.all_special_ids)
    return sorted(index for token, index in tokenizer.get_vocab().items() if index not in special and is_number_token(token))


def is_number_token(token: str) -> bool:
    """Whether a vocabulary entry is a number; see `number_token_ids`."""
    bare = token.strip(_SPACE_MARKERS).casefold()
    return bool(_NUMERAL.fullmatch(bare)) or bare in NUMBER_WORDS


def unrelated_questions(suite: Suite, most: int = MAX_PROMPTS) -> list[tuple[str, int]]:
    """Questions that call for no number: (task name, position), at most `most`, taken evenly from the held-out tasks.

    A held-out task takes part when none of its expected answers holds a digit. The choice depends on the suite only, so that
    models are compared on the same questions.
    """
    plain = [task for task in suite.tasks if task.group != "target" and not any(_has_digit(question) for question in task.questions)]
    rounds = max((len(task.questions) for task in plain), default=0)
    found = [(task.name, position) for position in range(rounds) for task in plain if position < len(task.questions)]
    return found[:most]


@torch.inference_mode()
def number_token_probability(
    model: Any,
    processor: Any,
    conversations: Sequence[Conversation],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> float | None:
    """Mean probability of a number token while a model writes `continuations`, between 0 and 1.

    NTB = E_x[(1/T) sum_t sum_{v in N} p(v | x, y_<t)]: over the vocabulary entries N that are numbers, summed; over the tokens
    of a continuation, averaged; then over prompts. Computed with each continuation given to the model (teacher forcing); for
    the model's own greedy continuations this is the paper's measure.

    Args:
        model: A causal transformers model, with or without pictures.
        processor: Its processor or tokenizer.
        conversations: The prompts x; the text of the last assistant turn is not shown.
        continuations: For each prompt the token ids y, closing token included; prompts with none are left out.
        batch_size: Prompts in one pass.

    Returns:
        The mean, or None when there is no prompt with a continuation.
    """
    tokenizer = tokenizer_of(processor)
    numbers = torch.tensor(number_token_ids(tokenizer), dtype=torch.long, device=model.device)
    pairs = [pair for pair in zip(conversations, continuations, strict=True) if pair[1]]
    mark = pictures_of(processor).mark
    prompts = render_prompts([conversation for conversation, _ in pairs], tokenizer, mark=mark)
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0].images), len(prompts[i])))
    training = model.training
    model.eval()
    means: list[float] = []
    try:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            inputs = encode_batch(processor, [prompts[i] for i in chosen], [pairs[i][0] for i in chosen], model.device)
            means += _batch_means(model, inputs, [pairs[i][1] for i in chosen], numbers)
    finally:
        model.train(training)
    return sum(means) / len(means) if means else None


def _batch_means(model: Any, inputs: dict[str, Any], continuations: Sequence[Sequence[int]], numbers: torch.Tensor) -> list[float]:
    """For each row, the number tokens' probability averaged over its continuation."""
    logits_BTV, written = teacher_forced(model, inputs, continuations)
    mass_BT = logits_BTV.float().softmax(dim=-1).index_select(-1, numbers).sum(dim=-1)
    return ((mass_BT * written).sum(dim=1) / written.sum(dim=1)).tolist()


def _has_digit(question: Question) -> bool:
    return any(character.isdigit() for character in question.expected)
