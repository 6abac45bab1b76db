"""A base with its adapted twin through the layers of one model, from one set of weights.

Where a gradient is asked for, the base goes first, without one; else both go side by side, the rows of the base above those of its twin:
each matrix is read once, one key-value cache holds both. Below the first layer with an adapter the two are one, and so are their rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from model import adapters

Whose = Literal["base", "tuned", "both"]


class Fork:
    """Stands in for the forward pass of a model's layers; gives the states of both behind the final norm, [2 x rows, tokens, hidden].

    Args:
        model: With adapters; changed in place.

    Attributes:
        first: The first layer in which the two differ.
        whose: Whose rows the layers have before them. At rest the twin's: gradient checkpointing computes its layers again at a time of its
            own.
        alone: The only one that goes through; None: both.
        below: What the layers below the fork do: keep what they give, or give what was kept.
        kept: That, [rows, tokens, hidden].
    """

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        adapted = [layer for _, layer in adapters.tuner_layers(model)]
        ids = {id(layer) for layer in adapted}
        self.first = next(number for number, layer in enumerate(decoder.layers) if any(id(one) in ids for one in layer.modules()))
        self.whose: Whose = "tuned"
        self.alone: Literal["base", "tuned"] | None = None
        self.below: Literal["keep", "give"] | None = None
        self.kept: torch.Tensor | None = None
        self._rows = 0
        self._doubled: dict[int, tuple[Any, Any]] = {}
        for layer in adapted:
            _Adapted(self, layer)
        for layer in decoder.layers[: self.first]:
            _Below(self, layer, last=layer is decoder.layers[self.first - 1])
        for layer in decoder.layers[self.first :]:
            layer.register_forward_pre_hook(self._double_inputs, with_kwargs=True)
        self._forward = decoder.forward
        if hasattr(decoder, "_deepstack_process"):
            self._deepstack, decoder._deepstack_process = decoder._deepstack_process, self._deepstack_of_both

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the model's layers take, to what they give; for one of the two, while it is alone, [rows, tokens, hidden]."""
        if self.alone == "tuned":
            return self._forward(*arguments, **options)
        if self.alone == "base":
            with torch.no_grad(), self._being("base"):
                return self._forward(*arguments, **options)
        if torch.is_grad_enabled() or _is_flat(options):
            return self._one_after_the_other(arguments, options)
        return self._side_by_side(arguments, options)

    def _one_after_the_other(self, arguments: Any, options: dict[str, Any]) -> Any:
        if options.get("past_key_values") is not None:
            raise ValueError("a siamese model goes on from a key-value cache without gradients alone; put the call into torch.no_grad()")
        try:
            with torch.no_grad(), self._being("base"):
                self.below = "keep"
                base = self._forward(*arguments, **options)
            self.below = "give"
            output = self._forward(*arguments, **options)
        finally:
            self.below = self.kept = None
        output.last_hidden_state = torch.cat([base.last_hidden_state, output.last_hidden_state])
        if output.past_key_values is not None:
            output.past_key_values = self._joined(base.past_key_values, output.past_key_values)
        return output

    def _joined(self, base: Any, tuned: Any) -> Any:
        """One key-value cache of two, as if both had gone side by side."""
        for own, other in list(zip(base.layers, tuned.layers, strict=True))[self.first :]:
            own.keys, own.values = torch.cat([own.keys, other.keys]), torch.cat([own.values, other.values])
        return base

    def _side_by_side(self, arguments: Any, options: dict[str, Any]) -> Any:
        inputs = options.get("inputs_embeds")
        inputs = inputs if inputs is not None else options.get("input_ids", arguments[0] if arguments else None)
        assert inputs is not None
        self._rows = len(inputs)
        try:
            with self._being("both"):
                return self._forward(*arguments, **options)
        finally:
            self._doubled = {}

    @contextmanager
    def _being(self, whose: Whose) -> Iterator[None]:
        self.whose = whose
        try:
            yield
        finally:
            self.whose = "tuned"

    def _double_inputs(self, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Gives a layer from the fork on what it needs for the rows of both."""
        if self.whose != "both":
            return None
        hidden, *others = arguments
        if len(hidden) == self._rows:
            hidden = torch.cat([hidden, hidden])
        return (hidden, *others), {name: self._for_both(name, value) for name, value in options.items()}

    def _for_both(self, name: str, value: Any) -> Any:
        """An input of a layer, for the rows of both; made once for all layers."""
        if name not in ("attention_mask", "position_ids", "position_embeddings") or value is None:
            return value
        if not isinstance(value, torch.Tensor | tuple):
            raise ValueError("flex attention cannot hold base and twin in one batch; load the model with attention sdpa, or eager")
        if id(value) not in self._doubled:
            made = tuple(self._twice(one, one.ndim - 3) for one in value) if name == "position_embeddings" else self._twice(value, 0)
            self._doubled[id(value)] = (made, value)  # with the value, so that its id stays its own
        return self._doubled[id(value)][0]

    def _twice(self, one: torch.Tensor, dimension: int) -> torch.Tensor:
        """A tensor whose rows, unless one serves all, lie in a dimension, with rows for both."""
        return torch.cat([one, one], dim=dimension) if one.shape[dimension] == self._rows else one

    def _deepstack_of_both(self, hidden: torch.Tensor, where: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Qwen3-VL adds features of the tower behind its first layers."""
        if len(hidden) == 2 * len(where):
            where, features = torch.cat([where, where]), torch.cat([features, features])
        added: torch.Tensor = self._deepstack(hidden, where, features)
        return added

    def reorder(self, cache: Any, beams: torch.Tensor, both: torch.Tensor) -> None:
        """Goes on with other rows of a key-value cache, in place.

        Args:
            cache: With a layer for each of the model's.
            beams: int64 [rows]: the rows to go on with.
            both: int64 [2 x rows]: the same for the layers that hold both.
        """
        for number, layer in enumerate(cache.layers):
            layer.reorder_cache(beams if number < self.first or self.alone is not None else both)


class _Adapted:
    """Stands in for the forward pass of a layer with an adapter, which the base's rows leave out."""

    def __init__(self, fork: Fork, layer: Any) -> None:
        self._fork, self._layer = fork, layer
        self._adapted, layer.forward = layer.forward, self.forward

    def forward(self, inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if self._layer.merged:
            raise ValueError("an adapter was merged into its base, which a siamese model still needs; unmerge it, or load the model again")
        if self._fork.whose == "both":
            return self._both(inputs)
        chosen = self._layer.base_layer if self._fork.whose == "base" else self._adapted
        found: torch.Tensor = chosen(inputs, *arguments, **options)
        return found

    @torch.compiler.disable
    def _both(self, inputs: torch.Tensor) -> torch.Tensor:
        """One product with the base's matrix for all rows, wherever in the adapter's own forward pass it is asked for."""
        base_layer, (base, tuned) = self._layer.base_layer, inputs.chunk(2)
        product = base_layer.forward
        outputs: list[torch.Tensor] = []

        def of_all_rows(asked: torch.Tensor) -> torch.Tensor:
            # IA3 scales what goes into the MLP's last matrix.
            outputs.append(product(inputs if asked is tuned else torch.cat([base, asked])))
            return outputs[0].chunk(2)[1]

        base_layer.forward = of_all_rows
        try:
            found = self._adapted(tuned)
        finally:
            del base_layer.forward
        assert len(outputs) == 1, f"{type(self._layer).__name__} asks its base {len(outputs)} times"
        outputs[0].chunk(2)[1].copy_(found)
        return outputs[0]


class _Below:
    """Stands in for the forward pass of a layer below the fork, where one pass without a gradient serves both."""

    def __init__(self, fork: Fork, layer: Any, *, last: bool) -> None:
        self._fork, self._last = fork, last
        self._forward, layer.forward = layer.forward, self.forward

    def forward(self, hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        fork = self._fork
        if fork.below == "give":
            return fork.kept if self._last and fork.kept is not None else hidden
        found: torch.Tensor = self._forward(hidden, *arguments, **options)
        if fork.below == "keep" and self._last:
            fork.kept = found
        return found


def _is_flat(options: dict[str, Any]) -> bool:
    """Whether rows lie behind one another, or a kernel's own mask says who sees whom: then rows cannot be doubled."""
    given = options.get("attention_mask")
    return "cu_seq_lens_q" in options or not (given is None or isinstance(given, torch.Tensor | dict))
