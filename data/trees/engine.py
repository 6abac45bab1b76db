"""What a tree asks of whatever runs the model."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

FinishReason = Literal["stop", "length"]

Embedder = Callable[[Sequence[str]], "np.ndarray"]
"""Texts to unit vectors, float32 [texts, dimension]."""


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
class Request:
    """One turn to be written.

    Attributes:
        prompt: All before the turn, as text, with the template's special tokens in it.
        ids: The same as token ids.
        seed: The turn's own, below 2**63.
    """

    prompt: str
    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One turn as the model wrote it.

    Attributes:
        text: Without what ended it; special tokens inside are kept where the engine can see them.
        tokens: How many the model wrote, the end not counted.
        logprob: Natural logarithm of its probability at temperature 1, its end included; None where the engine does not tell.
        finish_reason: "stop" when the turn was ended, "length" when it was cut off.
    """

    text: str
    tokens: int
    logprob: float | None
    finish_reason: FinishReason


class Engine(Protocol):
    """Continues prompts.

    Attributes:
        end_ids: Tokens that end any text of this model, beside those of the chat template.
        block_size: Turns of a block.
    """

    end_ids: tuple[int, ...]
    block_size: int

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """Writes one turn for each request; gives the blocks back in their order, each as soon as it is whole.

        An engine may work on several blocks at once. Growth commits each block that it gets, so what is lost when the process is killed is
        the blocks that were not given back yet.
        """
        ...


def node_seed(seed: int, parent: str | None, attempt: int) -> int:
    """A node's own seed, below 2**63: it depends on the plan's seed, the parent's id, the attempt; not on any batch."""
    digest = hashlib.sha256(f"{seed}/{parent or ''}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
