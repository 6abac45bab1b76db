"""A node of a tree: one turn with all that is known about how it was written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data.trees.engine import FinishReason

Role = Literal["user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
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
        logprob: Natural logarithm of the turn's probability given its prompt, at temperature 1; None where the engine does not tell.
        finish_reason: "stop"; "length" for a turn that was cut off, where the plan lets those through.
        system: Of a first question: the system prompt of its dialogues, where the plan gives one.
        topic: Of a first question: the topic that it was asked to be about, where the plan gives one.
    """

    id: str
    parent: str | None
    layer: int
    role: Role
    text: str
    tokens: int
    seed: int
    logprob: float | None
    finish_reason: FinishReason
    system: str | None = None
    topic: str | None = None

    def record(self) -> dict[str, Any]:
        """The node as a line of a shard."""
        record = {name: getattr(self, name) for name in self.__slots__}  # dataclasses.asdict takes ten times as long
        for name in ("system", "topic"):
            if record[name] is None:
                del record[name]
        return record


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A grown tree.

    Attributes:
        nodes: Layer by layer, parents before children.
        layers: For each layer its counts: planned, sampled, kept, dropped by reason, rounds, blocks, tokens, seconds.
    """

    nodes: tuple[Node, ...]
    layers: tuple[Mapping[str, Any], ...]


def child_id(parent: str | None, number: int) -> str:
    """Id of a node's child."""
    return str(number) if parent is None else f"{parent}.{number}"


def in_order(nodes: Iterable[Node]) -> list[Node]:
    """Layer by layer, each layer by its ids as numbers: the order of a tree grown at one go."""
    return sorted(nodes, key=lambda node: (node.layer, [int(number) for number in node.id.split(".")]))


def root_number(id: str) -> int:
    """Number of the root below which a node stands."""
    return int(id.partition(".")[0])
