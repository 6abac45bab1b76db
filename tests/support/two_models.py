"""IMSM as its paper writes it (arXiv 2412.17383): two full models, no cache, one equation after the other."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from model import adapters
from model.config import GateConfig
from model.siamese import Siamese, make_siamese

KINDS = {"lora": {"rank": 4, "alpha": 8}, "dora": {"rank": 4}, "adalora": {"rank": 4}, "ia3": {}}


def two_models(model: Any, kind: str, preset: str = "llm_blocks", gate: GateConfig | None = None) -> tuple[Any, Any, Siamese]:
    """A frozen model, its tuned twin, and the siamese that holds both; the first two share nothing with the third.

    Adapters and gate are moved away from their start, which changes nothing by design.
    """
    base = copy.deepcopy(model)
    config = adapters.AdapterConfig.model_validate({"kind": kind} | KINDS[kind])
    adapters.attach(model, config, preset, steps=100, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one in adapters.parameters(model):
            if one.requires_grad:
                one += 0.3 * torch.randn(one.shape, generator=generator)
    twin = copy.deepcopy(model)
    siamese = make_siamese(model, gate, seed=3)
    with torch.no_grad():
        for one in siamese.gate.parameters():
            one += torch.randn(one.shape, generator=generator) * len(one) ** -0.5
    return base.eval(), twin.eval(), siamese


def logits(base: Any, twin: Any, w_a: torch.Tensor, w_b: torch.Tensor, inputs: Mapping[str, Any], prompt_T: torch.Tensor) -> torch.Tensor:
    """The next token's logits behind every token of one row, [tokens, vocabulary].

    Args:
        base: M.
        twin: M'.
        w_a: [4 x hidden, rank].
        w_b: [rank, hidden].
        inputs: Of one row, without padding.
        prompt_T: bool [tokens]: which tokens are the prompt.
    """
    h_base, h_twin = (one.model(**inputs, use_cache=False).last_hidden_state[0] for one in (base, twin))
    q_base, q_twin = (one[prompt_T].mean(dim=0).expand_as(one) for one in (h_base, h_twin))
    gate = torch.sigmoid(torch.cat([q_base, h_base, h_twin, q_twin], dim=-1) @ w_a @ w_b)
    found: torch.Tensor = base.get_output_embeddings()(gate * h_base + (1 - gate) * h_twin)
    return found


@torch.no_grad()
def greedy(base: Any, twin: Any, gate: Any, inputs: Mapping[str, Any], tokens: int) -> list[int]:
    """Decodes one row as the released loop does: both models over the whole text for every token."""
    inputs = dict(inputs)
    prompt, written = inputs["input_ids"].shape[1], []
    for _ in range(tokens):
        width = inputs["input_ids"].shape[1]
        found = logits(base, twin, gate.w_a, gate.w_b, inputs, torch.arange(width) < prompt)[-1].argmax()
        written.append(int(found))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], found[None, None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    return written
