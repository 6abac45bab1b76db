"""Packed samples in one row: the same numbers as each alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed_rows import (
    FAMILIES,
    MODES,
    Case,
    alone,
    assert_equal_gradients,
    cases,
    flat,
    forward,
    gradients,
    loss_of,
    packed,
    pictured,
    text_model,
)
from torch.nn import functional

from model import varlen
from model.attention import attention_inputs, mask, use


@cases(FAMILIES, ("eager", "sdpa"), ("evaluation",))
def test_packed_logits_are_those_of_separate_samples(case: Case) -> None:
    with torch.no_grad():
        together = forward(case, packed(case, case.samples))
        separate = torch.cat([alone(case, sample) for sample in case.samples])
    assert (together[: len(separate)] - separate).abs().max() <= 1e-5 * separate.abs().max()


@cases(FAMILIES, ("sdpa",), ("evaluation",))
def test_packed_samples_stay_apart_with_a_cache(case: Case) -> None:
    batch = packed(case, case.samples)
    with torch.no_grad():
        cached = case.model(**attention_inputs(case.model, batch), use_cache=True).logits[0]
        assert torch.allclose(cached, forward(case, batch), rtol=1e-5, atol=1e-5)


@cases(FAMILIES, ("eager", "sdpa"), MODES)
def test_packed_losses_and_gradients_are_those_of_separate_samples(case: Case) -> None:
    logits = forward(case, packed(case, case.samples)).split([*(len(sample.ids) for sample in case.samples), 3])
    together = sum(loss_of(part, sample) for part, sample in zip(logits, case.samples, strict=False))
    separate = sum(loss_of(alone(case, sample), sample) for sample in case.samples)
    assert torch.allclose(together, separate, rtol=1e-5)
    assert_equal_gradients(gradients(case, together), gradients(case, separate))


@cases(FAMILIES, ("eager", "sdpa"))
def test_a_changed_token_leaves_other_samples_bit_identical(case: Case) -> None:
    batch = packed(case, case.samples)
    first = len(case.samples[0].ids)
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, first - 1] = (changed["input_ids"][0, first - 1] + 1) % 90
    with torch.no_grad():
        before, after = forward(case, batch), forward(case, changed)
    assert torch.equal(before[first:], after[first:])


@cases(FAMILIES, ("eager", "sdpa"), ("evaluation",))
def test_without_the_mask_samples_would_leak(case: Case) -> None:
    batch = attention_inputs(case.model, packed(case, case.samples))
    batch["attention_mask"] = mask(
        torch.full_like(batch["input_ids"], 10_000), case.model.get_decoder().config._attn_implementation, torch.float32
    )
    with torch.no_grad():
        leaking = case.model(**batch, use_cache=False).logits[0]
        separate = torch.cat([alone(case, sample) for sample in case.samples])
    assert (leaking[: len(separate)] - separate).abs().max() > 1e-3


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_of_packed_samples_are_their_own(case: Case) -> None:
    found = attention_inputs(case.model, packed(case, case.samples))["position_ids"][1:]
    for sample, part in zip(case.samples, found.split([*(len(sample.ids) for sample in case.samples), 3], dim=2), strict=False):
        ids = sample.ids[None]
        beside = {name: value for name, value in pictured(case, [sample], ids).items() if name != "pixel_values"}
        assert torch.equal(part, case.model.model.get_rope_index(ids, **beside)[0])


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_of_text_alone_are_plain(case: Case) -> None:
    batch = packed(case, [case.samples[1], case.samples[1]])
    assert torch.equal(attention_inputs(case.model, batch)["position_ids"], batch["position_ids"].expand(4, 1, -1))


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_count_pictures_over_all_rows(case: Case) -> None:
    rows = [packed(case, case.samples, padding=0), packed(case, case.samples[::-1], padding=0)]
    names = ("input_ids", "position_ids", "visible_until", "mm_token_type_ids")
    both = {name: torch.cat([row[name] for row in rows]) for name in names}
    both["image_grid_thw"] = torch.cat([row["image_grid_thw"] for row in rows])
    found = attention_inputs(case.model, both)["position_ids"]
    assert torch.equal(found, torch.cat([attention_inputs(case.model, row)["position_ids"] for row in rows], dim=1))


@cases(("llama", "llava-clip-llama", "llava-siglip-qwen2"), ("sdpa",), ("evaluation",))
def test_flex_gives_the_logits_of_sdpa(case: Case) -> None:
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = forward(case, packed(case, case.samples))
        use(case.model, "flex_attention")
        found = forward(case, packed(case, case.samples))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_mask_shows_what_lies_before_a_token_in_its_own_sample() -> None:
    found = mask(torch.tensor([[2, 2, 5, 5, 5]], dtype=torch.int32), "sdpa", torch.float32)[0, 0].int().tolist()
    assert found == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_padded_batches_stay_as_they_are() -> None:
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    assert attention_inputs(text_model("llama"), batch) == batch


# torch's kernel for many lengths


def by_segments(query: Any, key: Any, value: Any, bounds: Any, key_bounds: Any, longest: int, _: int, **options: Any) -> torch.Tensor:
    """What torch's kernel computes, sample by sample; in its order of arguments, its layout [tokens, heads, head size]."""
    assert bounds is key_bounds
    assert bounds.dtype == torch.int32
    assert longest == int(bounds.diff().max())
    assert options["window_size"] == (-1, 0)
    assert options["enable_gqa"] or query.shape[1] == key.shape[1]
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        states = [part[start:end].transpose(0, 1) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(*states, is_causal=True, scale=options["scale"], enable_gqa=options["enable_gqa"])
        parts.append(mixed.transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch's kernel, which computes on a GPU alone."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_segments)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("family", FAMILIES)
def test_varlen_gives_the_logits_of_sdpa(case_of: Callable[[str, str], Case], family: str) -> None:
    case = case_of(family, "sdpa")
    case.model.bfloat16()
    try:
        with torch.no_grad():
            expected = forward(case, packed(case, case.samples, padding=0)).float()
            use(case.model, "varlen")
            found = forward(case, flat(case, case.samples)).float()
    finally:
        case.model.float()
        use(case.model, "sdpa")
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.usefixtures("segments")
def test_varlen_hands_scale_and_shared_heads_to_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    options = {"cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32), "max_length_q": 5, "scaling": 0.7, "dropout": 0.0}
    found, _ = varlen.varlen_attention(torch.nn.Identity(), query, key, value, None, **options)
    ends = torch.tensor([4] * 4 + [9] * 5)[None]
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask(ends, "sdpa", torch.bfloat16), scale=0.7, enable_gqa=True
    )
    assert (found - expected.transpose(1, 2)).abs().max() <= 0.02


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        (torch.zeros(1, 2, 4, 8), {"cu_seq_lens_q": torch.tensor([0, 4])}, "float32, expected bf16"),
        (torch.zeros(1, 2, 4, 8).bfloat16(), {}, "no cu_seq_lens_q"),
        (torch.zeros(2, 2, 4, 8).bfloat16(), {"cu_seq_lens_q": torch.tensor([0, 4])}, "2 rows"),
        (torch.zeros(1, 2, 4, 8).bfloat16(), {"cu_seq_lens_q": torch.tensor([0, 4]), "dropout": 0.1}, "no dropout"),
    ],
)
def test_varlen_refuses_what_it_cannot_compute(states: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        varlen.varlen_attention(torch.nn.Identity(), states, states, states, None, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "llava-siglip-qwen2", "qwen2_5_vl"])
def test_varlen_on_a_gpu_has_losses_and_gradients_of_sdpa(case_of: Callable[[str, str], Case], family: str) -> None:
    if not varlen.is_available():
        pytest.skip("this torch has no varlen attention")
    case = case_of(family, "sdpa")
    case.model.to("cuda", torch.bfloat16)
    found = []
    try:
        for name, batch in (("sdpa", packed(case, case.samples, padding=0)), ("varlen", flat(case, case.samples))):
            use(case.model, name)
            on_gpu = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            logits = forward(case, on_gpu).split([len(sample.ids) for sample in case.samples])
            loss = sum(loss_of(part.float().cpu(), sample) for part, sample in zip(logits, case.samples, strict=True))
            found.append((loss, gradients(case, loss)))
    finally:
        case.model.to("cpu", torch.float32)
        use(case.model, "sdpa")
    (expected, others), (loss, own) = found
    assert torch.allclose(loss, expected, rtol=0.01)
    for name, gradient in own.items():
        assert (gradient - others[name]).float().norm() <= 0.05 * others[name].float().norm() + 1e-3, name
