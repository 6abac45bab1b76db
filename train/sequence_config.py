"""The `sequence` section of a recipe: skill after skill."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.config import DataConfig, Share


class TaskConfig(BaseModel):
    """One skill."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="of its run folder, of the suite's task that measures it")
    data: DataConfig = Field(description="what it is trained on")
    train: dict[str, Any] = Field(default_factory=dict, description="fields of `train` that are others than the recipe's, for this task")

    @field_validator("train")
    @classmethod
    def _only_what_may_differ(cls, train: dict[str, Any]) -> dict[str, Any]:
        if "seed" in train:
            raise ValueError("seed is one for all tasks of a sequence; give sequence.seeds")
        return train


class MergeConfig(BaseModel):
    """What happens to a checkpoint before it is handed over: interpolation with the model before the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["wise_ft"] = Field(description="wise_ft (2109.01903): a straight line between the weights before and after the task")
    alpha: float = Field(0.9, ge=0, le=1, description="share of the tuned model")


class TreeReplayConfig(BaseModel):
    """Dialogues that the base wrote, in the mixture of every task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="tree folder, or a file of dialogues")
    format: str = Field("tree", description="of the records, see data.sources; llava for a file that `perennial generate` exported")
    share: Share = Field(description="of each task's mixture; all turns carry loss")


class ReplayConfig(BaseModel):
    """What is seen again beside a new task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trees: TreeReplayConfig | None = Field(None, description="what the base wrote down; None: nothing")
    memory: int | None = Field(None, ge=1, description="records of each former task, each seen as often as a new one; None: none")


class SequenceConfig(BaseModel):
    """The whole section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1, description="the skills")]
    orders: Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)] | None = Field(
        None, description="names of all tasks in each order to be tried; None: as listed"
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        (0,), description="each order is run with each of them, in place of train.seed"
    )
    merge: MergeConfig | None = Field(None, description="with the model before the task; None: the checkpoint is handed over as it is")
    replay: ReplayConfig = Field(default_factory=ReplayConfig, description="former data, what the base wrote")
    suite: str | None = Field(None, description="suite file that the base, then the model behind each task, answers; None: no evaluation")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, as listed."""
        return tuple(task.name for task in self.tasks)

    @property
    def all_orders(self) -> tuple[tuple[str, ...], ...]:
        """The orders that are run."""
        return self.orders or (self.names,)

    @model_validator(mode="after")
    def _once_each(self) -> "SequenceConfig":
        _no_twin("tasks", self.names)
        _no_twin("orders", [" → ".join(order) for order in self.all_orders])
        _no_twin("seeds", self.seeds)
        for number, order in enumerate(self.all_orders, start=1):
            for name in order:
                if name not in self.names:
                    near = get_close_matches(name, self.names, n=1, cutoff=0.4)
                    hint = f"; did you mean {near[0]!r}?" if near else ";"
                    raise ValueError(f"orders: order {number} names {name!r}{hint} The tasks are {', '.join(self.names)}")
            _no_twin(f"orders: order {number}", order)
            missing = [name for name in self.names if name not in order]
            if missing:
                raise ValueError(f"orders: order {number} lacks {', '.join(missing)}; every order holds every task once")
        return self


def _no_twin(what: str, values: Sequence[Any]) -> None:
    twins = [value for value, count in Counter(values).items() if count > 1]
    if twins:
        raise ValueError(f"{what}: {twins[0]} is there more than once; leave one of them out")
