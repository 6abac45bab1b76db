"""Who gave the tokens of an answer: the base's share in each, the probability that either model alone gives it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from model import siamese


@dataclass(frozen=True, kw_only=True)
class Share:
    """How a siamese model came to one token.

    Probabilities are those of the models as they are: before temperature, top-p or penalties.

    Attributes:
        token: Its id.
        base_share: Mean over the hidden dimensions of the gate that the token is predicted through, 0 to 1; 1 is the base alone.
        mixed: Probability that the two together give the token, 0 to 1.
        base: Probability that the base alone gives it.
        tuned: Probability that its tuned twin alone gives it.
    """

    token: int
    base_share: float
    mixed: float
    base: float
    tuned: float


@torch.inference_mode()
def shares(model: Any, inputs: dict[str, Any], continuations: Sequence[Sequence[int]]) -> list[list[Share]]:
    """Takes answers apart, token by token, in one pass over prompts with answers (IMSM, arXiv 2412.17383).

    The same holds for whatever way the tokens were chosen in. Logits are computed in the model's dtype, probabilities in float32.

    Args:
        model: A siamese model; it is put into evaluation mode for the time of the call.
        inputs: The prompts as the processor makes them: input_ids, attention_mask int64 [rows, tokens] with what else belongs to them.
        continuations: For each row the token ids of its answer.

    Returns:
        For each row, for each token of its answer.

    Raises:
        ValueError: The model is no siamese one.
    """
    pair = siamese.of(model)
    if pair is None:
        raise ValueError(
            f"{type(model).__name__} has no twin to share tokens with; give a siamese model (model.method: siamese in a recipe)"
        )
    training = model.training
    model.eval()
    try:
        with pair.watched() as seen:
            logits_BNV, _ = teacher_forced(model, inputs, continuations)
    finally:
        model.train(training)
    (gate,) = seen
    head = model.get_output_embeddings()
    tokens_BN = _padded(continuations, logits_BNV.device)[0]
    mixed = _probability(logits_BNV, tokens_BN)
    base, tuned = (_probability(head(states_BND)[:, :-1], tokens_BN) for states_BND in (gate.states.base, gate.states.tuned))
    share_BN = gate.share[:, :-1].mean(dim=-1).tolist()
    return [
        [
            Share(token=token, base_share=share_BN[row][at], mixed=mixed[row][at], base=base[row][at], tuned=tuned[row][at])
            for at, token in enumerate(ids)
        ]
        for row, ids in enumerate(continuations)
    ]


def teacher_forced(model: Any, inputs: dict[str, Any], continuations: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits behind which each token of some texts was, or would have been, written.

    Args:
        model: A causal model, with or without pictures; a siamese one is told where the prompts end, as it is when it generates.
        inputs: The prompts, padded at the left, as the processor makes them.
        continuations: For each row the token ids that stand behind its prompt.

    Returns:
        Logits [rows, longest continuation, vocabulary]; int64 mask [rows, longest continuation], 1 where a row has a token.
    """
    padded_BN, written_BN = _padded(continuations, inputs["input_ids"].device)
    prompt_BP = inputs["attention_mask"]
    longest = padded_BN.shape[1]
    inputs = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], padded_BN], dim=1),
        "attention_mask": torch.cat([prompt_BP, written_BN.to(prompt_BP.dtype)], dim=1),
    }
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, longest))
    pair = siamese.of(model)
    with nullcontext() if pair is None else pair.told(torch.nn.functional.pad(prompt_BP.bool(), (0, longest))):
        # The last longest + 1 positions begin with the prompt's last token, which predicts the first token of the continuation.
        logits_BTV = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits
    return logits_BTV[:, :-1], written_BN


def _padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded at the right, with their mask, both int64 [rows, longest]."""
    longest = max(map(len, rows))
    padded = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    written = torch.zeros_like(padded)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids, device=device)
        written[row, : len(ids)] = 1
    return padded, written


def _probability(logits_BNV: torch.Tensor, tokens_BN: torch.Tensor) -> list[list[float]]:
    found_BN = logits_BNV.float().softmax(dim=-1).gather(-1, tokens_BN[:, :, None]).squeeze(-1)
    probabilities: list[list[float]] = found_BN.tolist()
    return probabilities
