"""A node of a tree: one turn with all that is known about how it was written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.trees.engine import FinishReason
from data.trees.openers import Openers
from data.trees.plan import Role


@dataclass(frozen=True, kw_only=True)
class Node:
    """One turn.

    Attributes:
        id: Its path from the root: "3.0.7" is the eighth follow-up to the first answer to the fourth question.
        parent: The parent's id; None in the first layer.
        layer: Counted from 0; even layers are questions.
        role: Who speaks.
        text: Without the marks around it.
        tokens: Number of tokens that the model wrote, the end not counted.
        seed: What its random numbers came from.
        logprob: Natural logarithm of the turn's probability given its prompt, at temperature 1.
        finish_reason: "stop"; cut-off turns are not kept.
    """

    id: str
    parent: str | None
    layer: int
    role: Role
    text: str
    tokens: int
    seed: int
    logprob: float
    finish_reason: FinishReason

    def record(self) -> dict[str, Any]:
        """The node as a line of tree.jsonl."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A grown tree.

    Attributes:
        nodes: Layer by layer, parents before children.
        layers: For each layer its counts: planned, sampled, kept, dropped by reason, rounds, seconds.
    """

    nodes: tuple[Node, ...]
    layers: tuple[Mapping[str, Any], ...]


def child_id(parent: str | None, number: int) -> str:
    """Id of a node's child."""
    return str(number) if parent is None else f"{parent}.{number}"


def prompts_below(nodes: Iterable[Node], openers: Openers) -> dict[str, str]:
    """For each node's id the prompt of its children; parents must come before children."""
    prompts: dict[str, str] = {}
    for node in nodes:
        above = openers.root if node.parent is None else prompts[node.parent]
        prompts[node.id] = openers.child_prompt(above, node.text, node.role)
    return prompts


def by_layer(nodes: Sequence[Node], layer: int) -> list[Node]:
    """The nodes of one layer, in order."""
    return [node for node in nodes if node.layer == layer]
