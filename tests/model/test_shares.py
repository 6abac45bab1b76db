"""Who gave the tokens of an answer, against two full models and the paper's equations (tests/support/two_models.py)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import two_models
from packed_rows import Case, Sample, make_case, pictured

from model.config import GateConfig
from model.shares import Share, shares

WRITTEN = 3
FAMILIES = ("llama", "llava-clip-llama", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture
def case_of(family_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Case]:
    return lambda family: make_case(family, family_folder, tmp_path)


def inputs_of(case: Case, sample: Sample, tokens: int) -> dict[str, Any]:
    ids = sample.ids[None, :tokens]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | pictured(case, [sample], ids)


def apart(case: Case, model: Any, sample: Sample) -> list[Share]:
    """Takes a sample's last tokens as what was written."""
    return shares(model, inputs_of(case, sample, len(sample.ids) - WRITTEN), [sample.ids[-WRITTEN:].tolist()])[0]


def probabilities(logits: torch.Tensor, sample: Sample) -> list[float]:
    return logits[-WRITTEN - 1 : -1].softmax(-1).gather(1, sample.ids[-WRITTEN:, None])[:, 0].tolist()


def assert_close(found: Sequence[Share], expected: Sequence[Share]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert asdict(one) == pytest.approx(asdict(other), abs=1e-5)


@torch.no_grad()
def expected_shares(case: Case, base: Any, twin: Any, gate: Any, sample: Sample) -> list[Share]:
    inputs, prompt_T = inputs_of(case, sample, len(sample.ids)), torch.arange(len(sample.ids)) < len(sample.ids) - WRITTEN
    mixed = two_models.logits(base, twin, gate.w_a, gate.w_b, inputs, prompt_T)
    h_base, h_twin = (one.model(**inputs, use_cache=False).last_hidden_state[0] for one in (base, twin))
    q_base, q_twin = (one[prompt_T].mean(dim=0).expand_as(one) for one in (h_base, h_twin))
    share_T = torch.sigmoid(torch.cat([q_base, h_base, h_twin, q_twin], dim=-1) @ gate.w_a @ gate.w_b).mean(dim=-1)
    columns = (
        sample.ids[-WRITTEN:].tolist(),
        share_T[-WRITTEN - 1 : -1].tolist(),
        probabilities(mixed, sample),
        *(probabilities(one(**inputs, use_cache=False).logits[0], sample) for one in (base, twin)),
    )
    return [
        Share(token=token, base_share=share, mixed=both, base=of_base, tuned=of_twin)
        for token, share, both, of_base, of_twin in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_with_probabilities_are_those_of_two_full_models(case_of: Callable[[str], Case], family: str) -> None:
    case = case_of(family)
    assert case.samples[0].images or family == "llama"
    base, twin, siamese = two_models.two_models(case.model, "lora")
    expected = expected_shares(case, base, twin, siamese.gate, case.samples[0])
    assert_close(apart(case, case.model, case.samples[0]), expected)


@pytest.mark.parametrize("preset", ["llm_blocks", "llm_blocks[1:]"])
@pytest.mark.parametrize("kind", ["dora", "adalora", "ia3"])
def test_shares_are_right_for_every_kind_of_adapter(case_of: Callable[[str], Case], kind: str, preset: str) -> None:
    case = case_of("llama")
    base, twin, siamese = two_models.two_models(case.model, kind, preset)
    expected = expected_shares(case, base, twin, siamese.gate, case.samples[0])
    assert_close(apart(case, case.model, case.samples[0]), expected)


@pytest.mark.parametrize(("share", "same", "other"), [(1.0, "base", "tuned"), (0.0, "tuned", "base")])
def test_a_fixed_gate_at_its_end_gives_exactly_one_of_the_two(case_of: Callable[[str], Case], share: float, same: str, other: str) -> None:
    case = case_of("llama")
    two_models.two_models(case.model, "lora", gate=GateConfig(kind="fixed", share=share))
    found = apart(case, case.model, case.samples[0])
    assert [one.base_share for one in found] == [share] * WRITTEN
    assert [one.mixed for one in found] == [getattr(one, same) for one in found]
    assert [one.mixed for one in found] != [getattr(one, other) for one in found]


@pytest.mark.parametrize("kind", ["scalar", "no_query"])
def test_a_gate_of_another_kind_has_shares_too(case_of: Callable[[str], Case], kind: Any) -> None:
    case = case_of("llama")
    two_models.two_models(case.model, "lora", gate=GateConfig(kind=kind))
    found = [one.base_share for one in apart(case, case.model, case.samples[0])]
    assert all(0 < share < 1 for share in found) and len(set(found)) == WRITTEN


def test_what_an_answer_stands_beside_changes_none_of_its_shares(case_of: Callable[[str], Case]) -> None:
    case = case_of("llama")
    two_models.two_models(case.model, "lora")
    prompts, written = [one.ids[:-2] for one in case.samples], [one.ids[-2:].tolist() for one in case.samples]
    written[1] = written[1][:1]
    width = max(map(len, prompts))
    padded = torch.stack([torch.nn.functional.pad(prompt, (width - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([(torch.arange(width) >= width - len(prompt)).long() for prompt in prompts])
    together = shares(case.model, {"input_ids": padded, "attention_mask": mask}, written)
    for prompt, ids, found in zip(prompts, written, together, strict=True):
        alone = {"input_ids": prompt[None], "attention_mask": torch.ones_like(prompt[None])}
        assert_close(found, shares(case.model, alone, [ids])[0])


def test_no_dropout_takes_part_while_the_model_trains(case_of: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(two_models.KINDS, "lora", two_models.KINDS["lora"] | {"dropout": 0.5})
    case = case_of("llama")
    two_models.two_models(case.model, "lora")
    expected = apart(case, case.model.eval(), case.samples[0])
    assert_close(apart(case, case.model.train(), case.samples[0]), expected)
    assert case.model.training, "the model's mode is put back"


def test_a_model_without_a_twin_is_refused(case_of: Callable[[str], Case]) -> None:
    case = case_of("llama")
    with pytest.raises(ValueError, match="LlamaForCausalLM has no twin"):
        apart(case, case.model, case.samples[0])
