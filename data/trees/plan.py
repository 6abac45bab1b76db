"""The plan of a tree: how many children each layer has, how long its turns may be."""

import itertools
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Shape = Literal["wide", "balance", "single"]
Role = Literal["user", "assistant"]

# Default children of each shape; 1,000 dialogues each. The paper gives no values (arXiv 2406.11354), these are ours.
SHAPES: dict[str, tuple[int, ...]] = {"wide": (1000, 1, 1, 1), "balance": (100, 1, 10, 1), "single": (1000, 1)}
STATES_THRESHOLD = 0.975  # Magpie's, for a sentence model
QUESTION_TOKENS, ANSWER_TOKENS = 64, 256
BYTES_PER_TOKEN, BYTES_PER_NODE = 4, 170  # of tree.jsonl: text, then the fields around it


class EngineConfig(BaseModel):
    """What runs the model while a tree grows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transformers"] = Field("transformers", description="transformers: generation in this process")
    batch_size: int = Field(128, ge=1, description="turns written at once; part of the plan, since it decides the batches")


class DedupConfig(BaseModel):
    """When two turns count as the same; the first one stays.

    The default measure is one of spelling. The growing model's own last states, which serve where no sentence model is at hand,
    follow what comes next rather than what was said: on a language model of the Terrarium 152 of 400 different questions were
    "near-duplicates" above 0.975; those looked at asked about another creature, number or word.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: Literal["shingles", "states", "none"] = Field(
        "shingles",
        description="shingles: Jaccard of runs of three characters; states: cosine of the growing model's mean-pooled last states; "
        "none: exact duplicates only",
    )
    threshold: float = Field(0.9, gt=0.0, le=1.0, description="above it turns are near-duplicates; default 0.9, for states 0.975")
    scope: Literal["siblings", "layer"] = Field(
        "siblings", description="questions are compared with children of the same parent, or with the whole layer"
    )

    @model_validator(mode="before")
    @classmethod
    def _threshold_of_the_measure(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("near") == "states":
            return {"threshold": STATES_THRESHOLD, **values}
        return values


class TreeConfig(BaseModel):
    """The `tree` section of a recipe (Tree Generation, arXiv 2406.11354).

    Layers 1, 3, 5 ... hold questions that the model writes as the user, layers 2, 4, 6 ... its answers. `children[i]` is the
    number of children of each node of the layer before (of the root for the first), `max_tokens[i]` the longest turn of layer i.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape | None = Field(None, description="wide: no branching below layer 2; balance: some; single: one round; none: free form")
    children: tuple[int, ...] = Field((), description="children of each node, layer by layer (N_i); default: the shape's")
    max_tokens: tuple[int, ...] = Field((), description="tokens of a turn at most, layer by layer (L_i); default: 64 and 256 in turn")
    temperature: float = Field(1.0, gt=0.0, le=10.0, description="of questions")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="of questions: share of probability that sampling may reach")
    answer_temperature: float = Field(0.0, ge=0.0, le=10.0, description="of answers; 0: greedy")
    system: str | None = Field(None, description="system prompt of every dialogue; the template's own when absent")
    engine: EngineConfig = EngineConfig()  # type: ignore[call-arg]
    dedup: DedupConfig = DedupConfig()  # type: ignore[call-arg]
    max_rounds: int = Field(8, ge=1, description="rounds of sampling in which a layer may fill its quota")
    min_yield: float = Field(
        0.02, ge=0.0, le=1.0, description="a layer ends early when a large enough round keeps a smaller share than this"
    )
    seed: int = Field(0, ge=0, description="with the parent's id and the attempt it gives each node's own seed")
    sample: int | None = Field(None, ge=1, description="dialogues to export, drawn by the seed; all when absent")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="turns that carry loss when the dialogues are trained on")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        """Fills children from the shape, max_tokens from the depth."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if not values.get("children") and values.get("shape") in SHAPES:
            values["children"] = SHAPES[values["shape"]]
        if not values.get("max_tokens") and isinstance(values.get("children"), list | tuple):
            values["max_tokens"] = [(QUESTION_TOKENS, ANSWER_TOKENS)[layer % 2] for layer in range(len(values["children"]))]
        return values

    @field_validator("children", "max_tokens")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        for layer, value in enumerate(values, start=1):
            if value < 1:
                raise ValueError(f"layer {layer} is {value}; every layer needs at least 1")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "TreeConfig":
        children, depth = self.children, len(self.children)
        if not children:
            raise ValueError(f"children is missing; give a list such as [100, 1, 10, 1], or a shape: {', '.join(SHAPES)}")
        if depth % 2:
            raise ValueError(f"children has {depth} layers {list(children)}; questions and answers alternate, so give an even number")
        if len(self.max_tokens) != depth:
            raise ValueError(f"children has {depth} layers, max_tokens {len(self.max_tokens)}; give both the same number")
        branching = [layer for layer, number in enumerate(children, start=1) if layer > 2 and number > 1]
        if self.shape == "single" and depth != 2:
            raise ValueError(f"shape single has one round (2 layers), children has {depth}; shorten children, or remove shape")
        if self.shape == "wide" and branching:
            raise ValueError(
                f"shape wide branches above layer 3 only, children {list(children)} branches in layer {branching[0]}; set 1 there"
            )
        if self.shape == "balance" and not branching:
            raise ValueError(f"shape balance branches below layer 2, children {list(children)} does not; use shape wide, or none")
        if self.answer_temperature == 0.0 and any(number > 1 for number in children[1::2]):
            raise ValueError(
                f"children {list(children)} asks for several greedy answers, which are all equal; set answer_temperature above 0"
            )
        return self

    @property
    def depth(self) -> int:
        """Number of layers, twice the number of rounds."""
        return len(self.children)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Nodes of each layer of the full tree: the running product of `children`."""
        return tuple(itertools.accumulate(self.children, lambda total, number: total * number))

    @property
    def nodes(self) -> int:
        """Nodes of the full tree, the root prompt not counted."""
        return sum(self.layer_sizes)

    @property
    def dialogues(self) -> int:
        """Dialogues of the full tree: its leaves."""
        return self.layer_sizes[-1]

    @property
    def tokens(self) -> int:
        """Tokens written at most, resampling not counted."""
        return sum(size * limit for size, limit in zip(self.layer_sizes, self.max_tokens, strict=True))

    @property
    def bytes(self) -> int:
        """Rough size of tree.jsonl at most."""
        return self.tokens * BYTES_PER_TOKEN + self.nodes * BYTES_PER_NODE

    def role(self, layer: int) -> Role:
        """Who speaks in a layer, counted from 0."""
        return "assistant" if layer % 2 else "user"

    def with_children(self, children: tuple[int, ...]) -> "TreeConfig":
        """The same plan with other children in free form; turns as long as before, repeated in pairs where the tree got deeper."""
        limits = [*self.max_tokens, *(self.max_tokens[-2:] * len(children))][: len(children)]
        return TreeConfig.model_validate({**self.model_dump(), "shape": None, "children": children, "max_tokens": limits})

    def summary(self) -> dict[str, object]:
        """What `--dry-run` prints: counts of the full tree."""
        return {
            "children": list(self.children),
            "max_tokens": list(self.max_tokens),
            "layer_sizes": list(self.layer_sizes),
            "nodes": self.nodes,
            "dialogues": self.dialogues if self.sample is None else min(self.sample, self.dialogues),
            "tokens_at_most": self.tokens,
            "bytes_at_most": self.bytes,
        }
