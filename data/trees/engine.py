"""What a tree asks of whatever runs the model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

FinishReason = Literal["stop", "length"]

Embedder = Callable[[Sequence[str]], np.ndarray]
"""Texts to unit vectors, float32 [texts, dimension]."""

Advance = Callable[[int, int], None]
"""Called after each batch with the turns and tokens that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How turns are written.

    Attributes:
        max_tokens: Tokens of a turn at most, its stop token included.
        temperature: 0 is greedy.
        top_p: Share of probability that sampling may reach, in (0, 1].
        stop_ids: Tokens, any of which ends the turn.
        stop_texts: Strings, any of which ends the turn.
    """

    max_tokens: int
    temperature: float
    top_p: float
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One turn as the model wrote it.

    Attributes:
        token_ids: Without the stop token; a stop text and what came with its last token are still there.
        logprob: Natural logarithm of its probability under the model at temperature 1, its end included.
        finish_reason: "stop" when the turn was ended, "length" when it was cut off.
    """

    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason


class Engine(Protocol):
    """Continues prompts; the same request with the same seeds gives the same turns.

    Attributes:
        end_ids: Tokens that end any text of this model, beside those of the chat template.
    """

    end_ids: tuple[int, ...]

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[Sequence[int]], advance: Advance | None = None
    ) -> list[list[Completion]]:
        """Writes `len(seeds[i])` turns after prompt i, one with each seed."""
        ...


def node_seed(seed: int, parent: str | None, attempt: int) -> int:
    """A node's own seed, below 2**63: it depends on the plan's seed, the parent's id, the attempt; not on any batch."""
    digest = hashlib.sha256(f"{seed}/{parent or ''}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
