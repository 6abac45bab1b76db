"""A base that shares every next token with its adapted twin through a gate (IMSM, arXiv 2412.17383)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from model import adapters
from model.config import GateConfig
from model.fork import Fork
from model.gate import Gate, Pair, mixed
from model.layout import GATE

_SEVERAL_AT_ONCE = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens", "prefill_chunk_size")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What the tokens that a loss asks for are answers to.

    Attributes:
        row: int64 [prompts]: row of the batch.
        tokens: bool [prompts, tokens]: which tokens of that row belong to the prompt.
        of: int64 [asked tokens]: the prompt of each.
    """

    row: torch.Tensor
    tokens: torch.Tensor
    of: torch.Tensor

    def means(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The mean over each prompt's tokens, float32 [prompts, hidden]."""
        rows, width, size = hidden_BTD.shape
        counted = torch.zeros(len(self.row), rows, width, device=hidden_BTD.device)
        counted[torch.arange(len(self.row), device=self.row.device), self.row] = self.tokens.to(counted.dtype)
        sums = counted.reshape(-1, rows * width) @ hidden_BTD.float().reshape(rows * width, size)
        return sums / self.tokens.sum(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a gate did to some tokens.

    Attributes:
        states: Hidden states, [rows, tokens, hidden] each.
        share: The base's share, float32 [rows, tokens, hidden], or [rows, tokens, 1] where it is one number.
    """

    states: Pair
    share: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """What the tokens behind a key-value cache leave to the gate: sums [2 x rows, hidden], counts [2 x rows], the queries."""

    sums: torch.Tensor
    counts: torch.Tensor
    queries: Pair

    def reordered(self, beams: torch.Tensor, both: torch.Tensor) -> "_Memory":
        return _Memory(sums=self.sums[both], counts=self.counts[both], queries=self.queries[beams])


class Siamese:
    """Turns a model with adapters into base and twin that share every token; `of` gives it back.

    The model stays what it is for its callers: the same class, inputs, logits, `generate`; but its layers by themselves give the states of
    both, the base's rows first. Every token's share depends on the prompt: when generating, all tokens of the first pass, with those of any
    later pass of more than one; in another pass what `told` says, else all of its tokens, so that logits before the last one know what
    comes. With `labels` it must be told.

    Args:
        model: With adapters, which alone train; changed in place.
        gate: Shares out every token.

    Raises:
        ValueError: Something else of the model trains, so that its base would not stay as it is.
    """

    def __init__(self, model: Any, gate: Gate) -> None:
        own = {id(one) for one in adapters.parameters(model)}
        others = [name for name, one in model.named_parameters() if one.requires_grad and id(one) not in own]
        if others:
            raise ValueError(
                f"{len(others)} tensors outside of the adapters train, {others[0]} for example, but a siamese model's base stays as it is; "
                "give a preset of the language model's layers alone, such as llm_blocks"
            )
        self.gate = gate
        self.fork = Fork(model)
        self._prompts: Prompts | None = None
        self._told: torch.Tensor | None = None
        self._queries: Pair | None = None
        self._watching: list[Seen] | None = None
        model.get_decoder().forward = self._decode
        model.get_output_embeddings().register_forward_pre_hook(self._mix)
        self._begins = False
        self._generate, model.generate = model.generate, self._checked_generate
        self._settings = model.generation_config
        model._reorder_cache = self._reorder
        model.generate_batch, model.save_pretrained = self._no_batches, self._not_so_saved
        model.register_forward_pre_hook(self._check_labels, with_kwargs=True)

    @contextmanager
    def alone(self, whose: Literal["base", "tuned"]) -> Iterator[None]:
        """Lets one of the two answer without the other, and without the gate."""
        before, self.fork.alone = self.fork.alone, whose
        try:
            yield
        finally:
            self.fork.alone = before

    @contextmanager
    def told(self, prompt_BT: torch.Tensor) -> Iterator[None]:
        """Says which tokens of the batch inside are the prompt, bool [rows, tokens]; not for passes that go on from a cache."""
        self._told = prompt_BT
        try:
            yield
        finally:
            self._told = None

    @contextmanager
    def asked(self, prompts: Prompts) -> Iterator[None]:
        """Leaves the mixing to `mixed_rows` for a time: the head gets the hidden states of both, the base's rows first."""
        self._prompts = prompts
        try:
            yield
        finally:
            self._prompts = None

    @contextmanager
    def watched(self) -> Iterator[list[Seen]]:
        """Gives a list to which every pass through the head adds what the gate did."""
        seen: list[Seen] = []
        self._watching = seen
        try:
            yield seen
        finally:
            self._watching = None

    def mixed_rows(self, hidden_BTD: torch.Tensor, row: torch.Tensor, position: torch.Tensor, gate_only: torch.Tensor) -> torch.Tensor:
        """What the two make of some tokens together; inside `asked`.

        Args:
            hidden_BTD: Of both, [2 x rows, tokens, hidden].
            row: int64 [asked tokens].
            position: int64 [asked tokens].
            gate_only: bool [asked tokens]: where no gradient goes to the twin, but to the gate alone; the same within a prompt.

        Returns:
            [asked tokens, hidden].
        """
        prompts = self._prompts
        assert prompts is not None
        base, tuned = hidden_BTD.chunk(2)
        queries, states = Pair(prompts.means(base), prompts.means(tuned)), Pair(base[row, position], tuned[row, position])
        if gate_only.any():
            # The gradient is zero there, not missing: every process needs one for every parameter.
            of_prompt = torch.zeros(len(prompts.row), dtype=torch.bool, device=gate_only.device).index_fill(0, prompts.of[gate_only], True)
            queries = Pair(queries.base, torch.where(of_prompt[:, None], queries.tuned.detach(), queries.tuned))
            states = Pair(states.base, torch.where(gate_only[:, None], states.tuned.detach(), states.tuned))
        return mixed(self.gate(states, queries, prompts.of), states)

    def _decode(self, *arguments: Any, **options: Any) -> Any:
        """Stands in for the forward pass of the language model's layers."""
        cache = options.get("past_key_values")
        if self.fork.alone is not None and hasattr(cache, "siamese"):
            raise ValueError(
                f"this key-value cache holds base and twin, the {self.fork.alone} model alone cannot go on from it; begin anew"
            )
        output = self.fork(*arguments, **options)
        mixes = self.fork.alone is None and self._prompts is None
        self._queries = self._queries_of(output, options) if mixes else None
        return output

    def _queries_of(self, output: Any, options: dict[str, Any]) -> Pair:
        """The mean hidden states of each row's prompt, [rows, hidden] each."""
        hidden, cache = output.last_hidden_state, output.past_key_values
        given = options.get("attention_mask")
        before: _Memory | None = getattr(cache, "siamese", None)
        if isinstance(given, torch.Tensor) and given.ndim == 2:
            real = given[:, -hidden.shape[1] :].bool()
        elif cache is None or given is None:
            real = torch.ones(len(hidden) // 2, hidden.shape[1], dtype=torch.bool, device=hidden.device)
        else:
            raise ValueError("a siamese model generates with a cache that grows; leave cache_implementation out of generate")
        if before is None and self._told is not None:
            real = _checked(self._told.to(hidden.device), real)
        real = torch.cat([real, real])
        sums, counts = torch.einsum("btd,bt->bd", hidden.float(), real.float()), real.sum(dim=1)
        if cache is None:
            return _halves(sums, counts)
        if before is not None:
            sums, counts = sums + before.sums, counts + before.counts
        answers = before is not None and hidden.shape[1] == 1 and not self._begins
        self._begins = False
        if before is not None and not answers and isinstance(given, torch.Tensor) and not torch.equal(counts, given.sum(dim=1).repeat(2)):
            raise ValueError(
                "the attention mask hides tokens behind the key-value cache that were not hidden when it was made; a siamese model needs "
                "the whole dialogue anew then, without past_key_values"
            )
        queries = before.queries if before is not None and answers else _halves(sums, counts)
        cache.siamese = _Memory(sums=sums, counts=counts, queries=queries)
        return queries

    def _mix(self, _: nn.Module, arguments: tuple[Any, ...]) -> Any:
        """Lets the head see one hidden state for each token, made of both."""
        queries, self._queries = self._queries, None  # what is kept would hold on to a graph
        if queries is None:
            return None
        base, tuned = arguments[0].chunk(2)
        rows, tokens, size = base.shape
        states = Pair(base.reshape(-1, size), tuned.reshape(-1, size))
        share = self.gate(states, queries, torch.arange(rows, device=base.device).repeat_interleave(tokens))
        if self._watching is not None:
            self._watching.append(Seen(states=Pair(base, tuned), share=share.reshape(rows, tokens, -1)))
        return (mixed(share, states).reshape(rows, tokens, size), *arguments[1:])

    def _reorder(self, cache: Any, beams: torch.Tensor) -> Any:
        """Beam search goes on with other rows of a cache."""
        both = torch.cat([beams, beams + len(beams)])
        self.fork.reorder(cache, beams, both)
        if hasattr(cache, "siamese"):
            cache.siamese = cache.siamese.reordered(beams, both)
        return cache

    def _checked_generate(self, *arguments: Any, **options: Any) -> Any:
        """Refuses what shows the model several tokens of an answer at once, which it would take for a prompt, or a prompt in parts."""
        config = options.get("generation_config", arguments[1] if len(arguments) > 1 else None) or self._settings
        found = [name for name in _SEVERAL_AT_ONCE if options.get(name, getattr(config, name, None)) is not None]
        if options.get("use_cache", getattr(config, "use_cache", None)) is False:
            found.append("use_cache=False")
        if found and self.fork.alone is None:
            raise ValueError(
                f"generate: {', '.join(found)} does not go with a siamese model, which reads a prompt at once, then writes token by token "
                "with a cache; leave it out"
            )
        self._begins = True
        return self._generate(*arguments, **options)

    def _check_labels(self, _: nn.Module, __: tuple[Any, ...], options: dict[str, Any]) -> None:
        if options.get("labels") is not None and self._told is None and self.fork.alone is None:
            raise ValueError("labels: a siamese model must be told where the prompt ends; put the call into `with of(model).told(prompt):`")

    def _no_batches(self, *_: Any, **__: Any) -> Any:
        raise ValueError("a siamese model does not generate with continuous batching, which mixes prompts in one pass; use generate")

    def _not_so_saved(self, *_: Any, **__: Any) -> Any:
        raise ValueError(
            "a siamese model is no model of transformers, which would not find its base again; use train.checkpoint.save_trainable"
        )


def of(model: Any) -> Siamese | None:
    """What makes a model siamese; None where it is not."""
    found: Siamese | None = getattr(model, "siamese", None)
    return found


def make_siamese(model: Any, config: GateConfig | None, *, seed: int) -> Siamese:
    """Sets a model with adapters beside its base.

    Args:
        model: Changed in place: it has a gate besides, a parameter of its own.
        config: Which gate; None: the paper's.
        seed: Draws the gate's start.

    Raises:
        ValueError: See `Siamese`.
    """
    example = next(model.parameters())
    gate = Gate(config or GateConfig(), model.config.get_text_config().hidden_size, seed)
    siamese = Siamese(model, gate)
    setattr(model, GATE, gate.to(example.device if example.device.type != "meta" else "cpu"))
    model.siamese = siamese
    return siamese


def additions(model: Any) -> Iterator[nn.Parameter]:
    """The parameters that stand beside a base's own: those of adapters, of a gate."""
    if adapters.is_adapted(model):
        yield from adapters.parameters(model)
    siamese = of(model)
    if siamese is not None:
        yield from siamese.gate.parameters()


@contextmanager
def base_alone(model: Any) -> Iterator[None]:
    """Lets a model be its base for a time; without adapters it is that already."""
    siamese = of(model)
    with siamese.alone("base") if siamese is not None else adapters.switched_off(model):
        yield


def _checked(told: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """What was told to be the prompt, if it can be."""
    if told.shape != real.shape or not told.any(dim=1).all():
        raise ValueError(f"told: expected bool {list(real.shape)} with a token of the prompt in every row, got {list(told.shape)}")
    return told.bool()


def _halves(sums: torch.Tensor, counts: torch.Tensor) -> Pair:
    return Pair(*(sums / counts[:, None]).chunk(2))
