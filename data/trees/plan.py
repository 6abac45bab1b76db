"""The plan of a tree: how many children each layer has, how its turns are written."""

import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.config import SourceConfig
from data.trees.config import DedupConfig, EngineConfig, ExportConfig, FilterConfig, ReportConfig, TransformersEngineConfig
from data.trees.nodes import Role

Shape = Literal["wide", "balance", "single", "talk"]

# What a shape fills in where the recipe is silent. The paper gives no values (arXiv 2406.11354); the children are ours (1,000 dialogues).
# Questions freely, answers greedily is Magpie's way; temperature 0.7 with top-p 0.9 for both is SA-SFT's (arXiv 2602.20162).
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"children": (1000, 1, 1, 1)},
    "balance": {"children": (100, 1, 10, 1)},
    "single": {"children": (1000, 1)},
    "talk": {"children": (1000, 1, 1, 1, 1, 1), "temperature": 0.7, "top_p": 0.9},
}
BYTES_PER_TOKEN, BYTES_PER_NODE = 4, 170  # of a shard: text, then the fields around it

Temperature = Annotated[float, Field(ge=0.0, le=10.0)]
TopP = Annotated[float, Field(gt=0.0, le=1.0)]


class TreeConfig(BaseModel):
    """The `tree` section of a recipe (Tree Generation, arXiv 2406.11354).

    Layers 1, 3, 5 ... hold questions that the model writes as the user, layers 2, 4, 6 ... its answers. `children[i]` is the
    number of children of each node of the layer before (of the root prompt for the first). `max_tokens`, `temperature` and `top_p` take one
    number for every layer, two (questions, answers) that repeat, or one for each layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape | None = Field(None, description="wide: no branching below layer 2; balance: some; single: one round; talk: none")
    children: tuple[int, ...] = Field((), description="children of each node, layer by layer (N_i); default: the shape's")
    max_tokens: tuple[Annotated[int, Field(ge=1)], ...] = Field((64, 256), description="tokens of a turn at most (L_i)")
    temperature: tuple[Temperature, ...] = Field((1.0, 0.0), description="0: greedy")
    top_p: tuple[TopP, ...] = Field((1.0,), description="share of probability that sampling may reach")
    ends: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...] = Field(
        (), description="share of the first questions whose dialogues end after round 1, 2, ...; the rest go on to the last layer"
    )
    system: tuple[str, ...] = Field((), description="system prompts, dealt out to first questions in turn; default: the template's own")
    topics: tuple[str, ...] = Field((), description="topics, dealt out in turn; or a text file with one a line")
    topic_prompt: str = Field("The conversation is about {topic}.", description="joins the system prompt while writing; not exported")
    thinking: bool = Field(False, description="what the chat template gets as enable_thinking")
    corpus: SourceConfig | None = Field(None, description="dialogues that exist already, sifted and exported in place of grown ones")
    engine: EngineConfig = TransformersEngineConfig()  # type: ignore[call-arg]
    dedup: DedupConfig = DedupConfig()  # type: ignore[call-arg]
    filters: FilterConfig = FilterConfig()  # type: ignore[call-arg]
    export: ExportConfig = ExportConfig()  # type: ignore[call-arg]
    report: ReportConfig = ReportConfig()  # type: ignore[call-arg]
    max_rounds: int = Field(8, ge=1, le=999, description="rounds of sampling in which a layer may fill its quota")
    min_yield: float = Field(
        0.02, ge=0.0, le=1.0, description="a layer ends early when a large enough round keeps a smaller share than this"
    )
    seed: int = Field(0, ge=0, description="with the parent's id and the attempt it gives each node's own seed")
    part: int = Field(0, ge=0, description="which of `parts` this growth is")
    parts: int = Field(1, ge=1, description="growths, each of its own share of the first questions, that are merged afterwards")
    resume: Literal["if_possible", "always", "never"] = Field(
        "if_possible", description="always: fail when there is nothing to go on from; never: fail when there is something"
    )
    loss_on: Literal["assistant", "all"] = Field("assistant", description="turns that carry loss when the dialogues are trained on")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        """Takes single values for lists; fills in from the shape; reads the topics' file."""
        if not isinstance(values, dict):
            return values
        values = {name: value for name, value in values.items() if value is not None}
        for name, value in SHAPES.get(str(values.get("shape")), {}).items():
            values.setdefault(name, value)
        if isinstance(values.get("topics"), str):
            values["topics"] = _lines(Path(values["topics"]))
        for name in ("max_tokens", "temperature", "top_p", "ends", "system"):
            if isinstance(values.get(name), int | float | str):
                values[name] = (values[name],)
        return values

    @field_validator("children")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        for layer, value in enumerate(values, start=1):
            if value < 1:
                raise ValueError(f"layer {layer} is {value}; every layer needs at least 1")
        return values

    @field_validator("topic_prompt")
    @classmethod
    def _holds_the_topic(cls, value: str) -> str:
        if "{topic}" not in value:
            raise ValueError(f"{value!r} does not hold {{topic}}; that is where the topic goes")
        return value

    @field_validator("system")
    @classmethod
    def _said(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(str.strip, values)):
            raise ValueError("a system prompt is empty; leave it out, or leave system out for the template's own")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "TreeConfig":
        if self.corpus is not None:
            return self._without_growth()
        if not self.children:
            raise ValueError(f"children is missing; give a list such as [100, 1, 10, 1], or a shape: {', '.join(SHAPES)}")
        if self.depth % 2:
            raise ValueError(
                f"children has {self.depth} layers {list(self.children)}; questions and answers alternate: give an even number"
            )
        for name in ("max_tokens", "temperature", "top_p"):
            given = len(getattr(self, name))
            if given not in (1, 2, self.depth):
                raise ValueError(f"children has {self.depth} layers, {name} {given} values; give 1, 2 (questions, answers) or {self.depth}")
        if self.part >= self.parts:
            raise ValueError(f"part is {self.part}, parts {self.parts}; parts are counted from 0")
        if self.parts > self.children[0]:
            raise ValueError(f"parts is {self.parts}, but there are {self.children[0]} first questions; divide them into fewer parts")
        self._check_shape()
        siblings = (max(map(self.quota, self.places()), default=1), *self.children[1:])
        greedy = [layer for layer, number in enumerate(siblings) if number > 1 and self.of("temperature", layer) == 0.0]
        if greedy:
            raise ValueError(
                f"children {list(self.children)} asks for several greedy turns below one prompt in layer {greedy[0] + 1}, "
                "which are all equal; set its temperature above 0"
            )
        if len(self.ends) >= max(self.rounds, 1) or sum(self.ends) > 1.0:
            raise ValueError(f"ends {list(self.ends)}: expected shares for at most {self.rounds - 1} rounds (not the last), 1 in all")
        return self

    def _without_growth(self) -> "TreeConfig":
        given = [name for name in ("shape", "children", "topics", "system", "ends") if getattr(self, name)]
        if given or self.parts > 1:
            raise ValueError(f"corpus takes dialogues that exist, {[*given, 'parts'][0]} plans new ones; give one of them")
        return self

    def _check_shape(self) -> None:
        children = self.children
        branching = [layer for layer, number in enumerate(children, start=1) if number > 1 and layer > 1]
        deep = [layer for layer in branching if layer > 2]
        if self.shape == "single" and self.depth != 2:
            raise ValueError(f"shape single has one round (2 layers), children has {self.depth}; shorten children, or remove shape")
        if self.shape == "wide" and deep:
            raise ValueError(f"shape wide branches above layer 3 only, children {list(children)} branches in layer {deep[0]}; set 1 there")
        if self.shape == "talk" and branching:
            raise ValueError(f"shape talk does not branch, children {list(children)} does in layer {branching[0]}; set 1 there")
        if self.shape == "balance" and not deep:
            raise ValueError(f"shape balance branches below layer 2, children {list(children)} does not; use shape wide, or none")

    # --- layers ----------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of layers, twice the number of rounds."""
        return len(self.children)

    @property
    def rounds(self) -> int:
        """Questions of the longest dialogue."""
        return self.depth // 2

    def role(self, layer: int) -> Role:
        """Who speaks in a layer, counted from 0."""
        return "assistant" if layer % 2 else "user"

    def of(self, name: Literal["max_tokens", "temperature", "top_p"], layer: int) -> Any:
        """A setting's value in a layer, counted from 0."""
        values = getattr(self, name)
        return values[layer % len(values)]

    # --- roots -----------------------------------------------------------------------------------------------------------

    @cached_property
    def cycle(self) -> int:
        """After how many first questions system prompts, topics and parts come round again."""
        return math.lcm(max(1, len(self.system)), max(1, len(self.topics)), self.parts)

    def places(self) -> range:
        """Numbers, below `cycle`, of the root prompts whose first questions this part writes; each has its own children."""
        return range(self.part, min(self.cycle, self.children[0]), self.parts)

    def quota(self, place: int) -> int:
        """First questions of a root prompt: those numbered place, place + cycle, ..."""
        return len(range(place, self.children[0], self.cycle))

    def layers_of(self, root: int) -> int:
        """Layers of the dialogues below a first question; the same for that question in every larger plan."""
        if not self.ends:
            return self.depth
        place = bisect_right(list(itertools.accumulate(self.ends)), _spread(root // self.parts))
        return self.depth if place == len(self.ends) else 2 * (place + 1)

    # --- sizes -----------------------------------------------------------------------------------------------------------

    @cached_property
    def layer_sizes(self) -> tuple[int, ...]:
        """Nodes of each layer of this part of the full tree."""
        roots = range(self.part, self.children[0], self.parts)
        ending = Counter(self.layers_of(root) for root in roots) if self.ends else {self.depth: len(roots)}
        below = list(itertools.accumulate(self.children[1:], lambda total, number: total * number, initial=1))
        return tuple(sum(count for layers, count in ending.items() if layers > layer) * below[layer] for layer in range(self.depth))

    @property
    def nodes(self) -> int:
        """Nodes of the full tree, the root prompt not counted."""
        return sum(self.layer_sizes)

    @property
    def dialogues(self) -> int:
        """Dialogues of the full tree: its leaves."""
        sizes = self.layer_sizes
        continued = [size // number for size, number in zip(sizes[2::2], self.children[2::2], strict=True)]
        return sum(sizes[1::2]) - sum(continued)

    @property
    def tokens(self) -> int:
        """Tokens written at most, resampling not counted."""
        return sum(size * self.of("max_tokens", layer) for layer, size in enumerate(self.layer_sizes))

    @property
    def bytes(self) -> int:
        """Rough size of the tree on disk at most."""
        return self.tokens * BYTES_PER_TOKEN + self.nodes * BYTES_PER_NODE

    def with_children(self, children: Sequence[int]) -> "TreeConfig":
        """The same plan with other children, in free form; what was given layer by layer is repeated in pairs where the tree got deeper."""
        depth, values = len(children), self.model_dump()
        for name in ("max_tokens", "temperature", "top_p"):
            if len(values[name]) > 2:
                values[name] = (*values[name], *(values[name][-2:] * depth))[:depth]
        return TreeConfig.model_validate({**values, "shape": None, "children": tuple(children)})

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` prints: counts of the full tree."""
        if self.corpus is not None:
            return {"corpus": self.corpus.path, "format": self.corpus.format}
        shares = {"part": self.part, "parts": self.parts} if self.parts > 1 else {}
        return shares | {
            "children": list(self.children),
            **{name: [self.of(name, layer) for layer in range(self.depth)] for name in ("max_tokens", "temperature", "top_p")},
            "layer_sizes": list(self.layer_sizes),
            "nodes": self.nodes,
            "dialogues": self.dialogues if self.export.sample is None else min(self.export.sample, self.dialogues),
            "tokens_at_most": self.tokens,
            "bytes_at_most": self.bytes,
        }


def _spread(number: int) -> float:
    """The van der Corput sequence: the first n of its values lie evenly in [0, 1), for every n."""
    return sum(1.0 / (2 << place) for place, bit in enumerate(reversed(f"{number:b}")) if bit == "1")


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ValueError(f"topics: there is no file {path}; give a text file with one topic a line, or a list")
    return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
