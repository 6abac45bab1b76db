"""torch's attention for rows of many lengths, as a kernel that transformers' models can be told to use."""

import inspect
from typing import Any

import torch

NAME = "varlen"


def is_available() -> bool:
    """Whether this torch has it, with fewer heads for keys than for queries (some releases had it without)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def register() -> None:
    """Makes `NAME` known to transformers; may be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, no_mask)


def no_mask(*_: Any, **__: Any) -> None:
    """The mask of a kernel that is told the bounds of the samples instead."""


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample of one row, in the form of transformers' attention interface.

    Args:
        module: The attention layer; its weights are not used.
        query: bf16 or fp16 [1, heads, tokens, head size].
        key: [1, key heads, tokens, head size], where `heads` is a multiple of `key heads`.
        value: Likewise.
        attention_mask: None: samples are told apart by their bounds.
        options: `cu_seq_lens_q` int32 [samples + 1], the bounds of the samples; `max_length_q`, the tokens of the longest; `scaling` of the
            scores, None: 1 / sqrt(head size); `dropout`, which must be 0.

    Returns:
        [1, tokens, heads, head size], and None in place of the probabilities, which are never held.

    Raises:
        ValueError: Numbers of another type, more than one row, dropout, or no bounds.
    """
    assert attention_mask is None
    _check(query, options)
    from torch.nn.attention import varlen

    # The same tensor twice: some of torch's kernels take rows of equal bounds for queries as for keys by identity alone.
    bounds, longest = options["cu_seq_lens_q"], options["max_length_q"]
    mixed = varlen.varlen_attn(
        *(states[0].transpose(0, 1) for states in (query, key, value)),
        bounds,
        bounds,
        longest,
        longest,
        scale=options.get("scaling"),
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[None], None


def _check(query: torch.Tensor, options: dict[str, Any]) -> None:
    if options.get("cu_seq_lens_q") is None:
        raise ValueError(
            f"{NAME} attention got no cu_seq_lens_q: it takes packed rows in one line alone; give model.attention: sdpa for anything else"
        )
    if query.shape[0] != 1:
        raise ValueError(f"{NAME} attention got {query.shape[0]} rows, expected one that holds all samples")
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"{NAME} attention got {query.dtype}, expected bf16 or fp16; set train.precision: bf16, or model.attention: sdpa")
    if options.get("dropout"):
        raise ValueError(f"{NAME} attention has no dropout, but the model asks for {options['dropout']}; set attention_dropout to 0")
