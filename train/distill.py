"""Teachers: the model as it was, whose predictions a tuned one should keep."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from model.siamese import additions, base_alone
from train.config import LossConfig
from train.head import LossHead, Weights
from train.losses import Rows


class Teacher(Protocol):
    """Gives hidden states for the rows that carry loss, with the head that turns them into logits.

    Attributes:
        everywhere: Whether every process must ask it in every micro batch, since it passes through weights that are partitioned (ZeRO-3).
        takes_blanks: Whether its inputs carry the blank picture of a batch without pictures.
    """

    everywhere: bool
    takes_blanks: bool

    @property
    def needs_prompts(self) -> bool:
        """Whether it must know what each row is an answer to."""
        ...

    def hidden(self, model: Any, inputs: dict[str, Any], rows: Rows) -> torch.Tensor:
        """Hidden states [rows, hidden] behind the final norm, without a gradient.

        Args:
            model: The engine that trains.
            inputs: What the model's forward pass takes.
            rows: The rows.
        """
        ...

    def head(self, own: Weights) -> Weights:
        """Its head; `own` is that of the model that trains."""
        ...


class SameWeights:
    """The model itself as it was at the start: its adapters off, whatever else trains put back for the time of a forward pass.

    Costs a copy of what trains outside of adapters, no second model.

    Args:
        model: Before its first step.
        loss_head: The one that is installed in it.
        kept: Parameters that train outside of adapters.
        everywhere: Whether its weights are partitioned; then `kept` must be empty.
    """

    takes_blanks, needs_prompts = True, False

    def __init__(self, model: Any, loss_head: LossHead, kept: Sequence[torch.nn.Parameter], *, everywhere: bool) -> None:
        assert not (everywhere and kept), "a partitioned parameter cannot be put back"
        self.everywhere = everywhere
        self._model, self._loss_head = model, loss_head
        self._kept = [(one, one.detach().clone()) for one in kept]

    def hidden(self, model: Any, inputs: dict[str, Any], rows: Rows) -> torch.Tensor:
        """See `Teacher`."""
        with torch.no_grad(), self._as_it_was(), self._loss_head.asked(rows):
            found: torch.Tensor = model(**inputs).logits
        return found

    def head(self, own: Weights) -> Weights:
        """See `Teacher`."""
        before = {id(one): kept for one, kept in self._placed()}
        return Weights(before.get(id(own.matrix), own.matrix), None if own.bias is None else before.get(id(own.bias), own.bias))

    def _placed(self) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        """The copies where the engine has put the model, in its precision."""
        self._kept = [(one, kept.to(one.device, one.dtype)) for one, kept in self._kept]
        return self._kept

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        now = [(one, one.data) for one, _ in self._kept]
        for one, kept in self._placed():
            one.data = kept
        training = self._model.training
        self._model.eval()  # no dropout
        try:
            with base_alone(self._model):
                yield
        finally:
            self._model.train(training)
            for one, data in now:
                one.data = data


class FrozenCopy:
    """A second model, whole on every device.

    Args:
        model: The teacher; it is frozen.
        base: Whether adapters in it are left out.
    """

    everywhere = takes_blanks = False

    def __init__(self, model: Any, *, base: bool = False) -> None:
        self._model, self._base = model.eval().requires_grad_(False), base
        self._loss_head = LossHead(self._model)

    @property
    def needs_prompts(self) -> bool:
        """See `Teacher`."""
        return self._loss_head.siamese is not None

    def hidden(self, model: Any, inputs: dict[str, Any], rows: Rows) -> torch.Tensor:
        """See `Teacher`."""
        example = next(model.parameters())
        self._model.to(example.device)
        for parameter in self._model.parameters():  # buffers stay in float32: rotary frequencies in bf16 turn far positions into others
            parameter.data = parameter.data.to(example.dtype)
        who = base_alone(self._model) if self._base else nullcontext()
        with torch.no_grad(), who, self._loss_head.installed(), self._loss_head.asked(rows):
            found: torch.Tensor = self._model(**inputs).logits
        return found

    def head(self, own: Weights) -> Weights:
        """See `Teacher`."""
        return self._loss_head.weights()


def teachers(
    model: Any, loss_head: LossHead, terms: Sequence[LossConfig], *, load: Callable[[str], Any], partitioned: bool
) -> dict[str | None, Teacher]:
    """A teacher for each name that a term gives; None stands for the model as it is now.

    Args:
        model: Before its first step, with what trains chosen.
        loss_head: The one that is installed in it.
        terms: What is minimised.
        load: Loads the model of a name.
        partitioned: Whether the engine will partition weights (ZeRO-3).

    Raises:
        ValueError: A named teacher has another vocabulary, or takes no pictures though the model does.
    """
    found: dict[str | None, Teacher] = {}
    for name in dict.fromkeys(term.teacher for term in terms if term.is_distilled):
        found[name] = _as_it_is(model, loss_head, partitioned) if name is None else _named(model, name, load(name))
    return found


def _as_it_is(model: Any, loss_head: LossHead, partitioned: bool) -> Teacher:
    beside = {id(one) for one in additions(model)}
    kept = [one for one in model.parameters() if one.requires_grad and id(one) not in beside]
    if partitioned and kept:
        return FrozenCopy(copy.deepcopy(model), base=True)
    return SameWeights(model, loss_head, kept, everywhere=partitioned)


def _named(model: Any, name: str, teacher: Any) -> Teacher:
    sizes = [one.get_output_embeddings().weight.shape[0] for one in (model, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"train.losses: teacher {name} has a vocabulary of {sizes[1]} tokens, the model of {sizes[0]}; "
            "give a teacher of the same family, with the same tokenizer"
        )
    if hasattr(model.config, "vision_config") and not hasattr(teacher.config, "vision_config"):
        raise ValueError(f"train.losses: teacher {name} takes no pictures, the model does; give a LLaVA-style teacher")
    return FrozenCopy(teacher)
