"""Adapters stand where their preset says, train alone, merge without a trace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.adapters import AdapterConfig, attach, merge, merged_state, save_adapter
from model.build import load_pair

KINDS = {"lora": {"rank": 4, "alpha": 8}, "dora": {"rank": 4}, "adalora": {"rank": 4}, "ia3": {}}
IDS = torch.arange(5, 25).reshape(2, 10)


def adapted(folder: Path, kind: str, preset: str = "llm_blocks") -> tuple[Any, Any, Any]:
    """Model, tuner, manifest; every adapter moved away from its start, which changes nothing by design."""
    model = load_pair(folder)[0]
    tuner, manifest = attach(model, AdapterConfig.model_validate({"kind": kind} | KINDS[kind]), preset, steps=100, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), tuner, manifest


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged(tiny_folder: Path, kind: str) -> None:
    model, tuner, _ = adapted(tiny_folder, kind)
    apart, plain = logits(model), logits(load_pair(tiny_folder)[0])
    assert not torch.allclose(apart, plain, atol=1e-2)
    merged = merge(tuner)
    assert torch.allclose(logits(merged), apart, atol=2e-5)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "ia3" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_state_loads_into_the_plain_model_and_leaves_the_adapted_one_as_it_was(tiny_folder: Path, kind: str) -> None:
    model = adapted(tiny_folder, kind)[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = load_pair(tiny_folder)[0]
    plain.load_state_dict(merged_state(model))
    assert torch.allclose(logits(plain), logits(model), atol=2e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_the_saved_adapter(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    model = adapted(tiny_folder, kind)[0]
    save_adapter(model, tmp_path)
    again = PeftModel.from_pretrained(load_pair(tiny_folder)[0], tmp_path).eval()
    assert torch.allclose(logits(again), logits(model), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapters_of_the_presets_modules_train(tiny_folder: Path, kind: str) -> None:
    model, _, manifest = adapted(tiny_folder, kind, "sa_proj")
    modules = {name.partition(".lora_")[0].partition(".ia3_")[0] for name in (tensor.name for tensor in manifest.tensors)}
    assert modules == {f"model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qkvo"}
    assert {tensor.name for tensor in manifest.tensors} == {name for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("family", ["llava-siglip-qwen2", "qwen2_5_vl", "qwen3_vl"])
def test_no_adapter_leaks_into_a_vision_tower_with_projections_of_the_same_name(family_folder: Callable[[str], Path], family: str) -> None:
    model = adapted(family_folder(family), "lora")[0]
    carries = {name for name, _ in model.named_parameters() if "lora" in name}
    assert carries
    assert all(name.startswith("model.language_model.layers.") for name in carries)


def test_a_projector_in_the_preset_trains_whole(tiny_folder: Path) -> None:
    groups = {}
    for tensor in adapted(tiny_folder, "lora", "sa_proj[-1]+projector")[2].tensors:
        groups.setdefault(tensor.group, []).append(tensor.name)
    assert groups["projector"] == [f"model.multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
    assert len(groups["language_model"]) == 8


def test_the_start_depends_on_the_seed_alone(tiny_folder: Path) -> None:
    starts = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # the global state must not matter
        model = load_pair(tiny_folder)[0]
        attach(model, AdapterConfig(kind="lora"), "sa_proj", steps=10, seed=seed)
        starts.append(torch.cat([one.flatten() for name, one in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_preset_with_the_tower_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="preset 'full' names the vision tower, which carries no adapter"):
        attach(load_pair(tiny_folder)[0], AdapterConfig(kind="lora"), "full", steps=1, seed=0)


def test_a_preset_without_linear_layers_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="preset 'projector' names no linear layer of the language model"):
        attach(load_pair(tiny_folder)[0], AdapterConfig(kind="lora"), "projector", steps=1, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ia3", "rank": 4}, "rank has no effect on ia3"),
        ({"kind": "lora", "initial_rank": 4}, "initial_rank has no effect on lora"),
        ({"kind": "adalora", "rank": 8, "initial_rank": 4}, "initial_rank 4 is smaller than rank 8"),
    ],
)
def test_an_option_without_effect_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig.model_validate(values)
