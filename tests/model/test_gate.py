"""The siamese gate: who gets how much of a token."""

import pytest
import torch
from pydantic import ValidationError

from model.config import GateConfig, ModelConfig
from model.gate import Gate, Pair, mixed

HIDDEN, ROWS, PROMPTS = 6, 5, 2
OF = torch.tensor([0, 0, 1, 1, 1])


def drawn(rows: int, seed: int) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(rows, HIDDEN, generator=generator), torch.randn(rows, HIDDEN, generator=generator))


STATES, QUERIES = drawn(ROWS, 0), drawn(PROMPTS, 1)


def gate_of(**settings: object) -> Gate:
    """A gate away from its start."""
    gate = Gate(GateConfig.model_validate(settings), HIDDEN, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one in gate.parameters():
            one += torch.randn(one.shape, generator=generator)
    return gate


def by_the_paper(gate: Gate) -> torch.Tensor:
    """sigma([q_M ; h_M ; h_M' ; q_M'] W_A W_B)."""
    return torch.sigmoid(torch.cat([QUERIES.base[OF], STATES.base, STATES.tuned, QUERIES.tuned[OF]], dim=1) @ gate.w_a @ gate.w_b)


def test_the_gate_is_the_papers_equation() -> None:
    gate = gate_of(rank=3)
    torch.testing.assert_close(gate(STATES, QUERIES, OF), by_the_paper(gate))


def test_the_gate_has_five_times_hidden_times_rank_parameters() -> None:
    assert sum(one.numel() for one in Gate(GateConfig(), 4096, seed=0).parameters()) == 5 * 4096 * 8


def test_without_a_query_the_gate_reads_the_two_states_alone() -> None:
    gate = gate_of(kind="no_query", rank=3)
    expected = torch.sigmoid(torch.cat([STATES.base, STATES.tuned], dim=1) @ gate.w_a @ gate.w_b)
    torch.testing.assert_close(gate(STATES, QUERIES, OF), expected)


def test_a_scalar_gate_has_one_share_for_all_dimensions() -> None:
    gate = gate_of(kind="scalar", rank=3)
    found = gate(STATES, QUERIES, OF)
    assert found.shape == (ROWS, 1)
    torch.testing.assert_close(found, by_the_paper(gate))


def test_a_bias_is_added_to_the_scores() -> None:
    plain, biased = gate_of(rank=3), gate_of(rank=3, initial_bias=0.7)
    with torch.no_grad():
        biased.bias.fill_(0.7)
    expected = torch.sigmoid(torch.logit(plain(STATES, QUERIES, OF).double()) + 0.7)
    torch.testing.assert_close(biased(STATES, QUERIES, OF), expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"kind": "no_query"}, {"kind": "scalar"}])
def test_every_share_begins_at_one_half(settings: dict[str, object]) -> None:
    found = Gate(GateConfig.model_validate(settings), HIDDEN, seed=0)(STATES, QUERIES, OF)
    assert torch.equal(found, torch.full_like(found, 0.5))


def test_an_initial_bias_begins_with_more_of_the_base() -> None:
    found = Gate(GateConfig(initial_bias=2.0), HIDDEN, seed=0)(STATES, QUERIES, OF)
    torch.testing.assert_close(found, torch.full((ROWS, HIDDEN), 0.8807971))


def test_a_fixed_gate_learns_nothing() -> None:
    gate = Gate(GateConfig(kind="fixed", share=0.3), HIDDEN, seed=0)
    assert torch.equal(gate(STATES, QUERIES, OF), torch.full((ROWS, 1), 0.3))
    assert not list(gate.parameters())


def test_the_seed_draws_the_gate_and_leaves_the_global_state_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (Gate(GateConfig(), HIDDEN, seed=seed).w_a for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("width", [1, HIDDEN])
def test_share_one_is_the_base_to_the_bit(width: int) -> None:
    assert torch.equal(mixed(torch.ones(ROWS, width), STATES), STATES.base)


@pytest.mark.parametrize("width", [1, HIDDEN])
def test_share_zero_is_the_tuned_model_to_the_bit(width: int) -> None:
    assert torch.equal(mixed(torch.zeros(ROWS, width), STATES), STATES.tuned)


def test_a_scalar_share_mixes_logits_while_a_share_for_each_dimension_does_not() -> None:
    head = torch.randn(HIDDEN, 11, generator=torch.Generator().manual_seed(5))
    for gate, equal in ((gate_of(kind="scalar", rank=3), True), (gate_of(rank=3), False)):
        share = gate(STATES, QUERIES, OF)
        of_logits = share.mean(dim=1, keepdim=True) * (STATES.base @ head) + (1 - share.mean(dim=1, keepdim=True)) * (STATES.tuned @ head)
        assert torch.allclose(mixed(share, STATES) @ head, of_logits, atol=1e-5) is equal


def test_low_precision_states_are_mixed_in_float32() -> None:
    half = Pair(STATES.base.bfloat16(), STATES.tuned.bfloat16())
    share = torch.full((ROWS, 1), 0.123)
    expected = (0.123 * half.base.float() + 0.877 * half.tuned.float()).bfloat16()
    assert torch.equal(mixed(share, half), expected)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"kind": "fixed", "rank": 4}, "rank"), ({"kind": "fixed", "initial_bias": 1.0}, "initial_bias"), ({"share": 0.3}, "share")],
)
def test_a_setting_without_effect_is_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=f"{named} has no effect"):
        GateConfig.model_validate(settings)


def test_siamese_needs_an_adapter_while_a_gate_needs_siamese() -> None:
    with pytest.raises(ValidationError, match="adapter is missing"):
        ModelConfig.model_validate({"base": "x", "method": "siamese"})
    with pytest.raises(ValidationError, match="gate has no effect on method plain"):
        ModelConfig.model_validate({"base": "x", "adapter": {"kind": "lora"}, "gate": {}})
