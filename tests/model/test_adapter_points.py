"""Points between a model and its adapted twin, written as adapters: exact in the weights, at the ends to the bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.adapter_points import CONFIG, WEIGHTS, describe, is_linear, join_adapters, modules, scale_adapter, trained_whole
from model.adapters import AdapterConfig, attach, merged_state, save_adapter
from model.build import load_pair

KINDS: dict[str, dict[str, Any]] = {"lora": {"rank": 4, "alpha": 8}, "dora": {"rank": 4}, "adalora": {"rank": 4}, "ia3": {}}
LINEAR = [kind for kind in KINDS if kind != "dora"]
IDS = torch.arange(5, 25).reshape(2, 10)
Make = Callable[..., Path]


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Make:
    """Writes an adapter away from its start, which changes nothing by design."""

    def adapter(kind: str, *, seed: int = 2, preset: str = "llm_blocks", **settings: Any) -> Path:
        model = load_pair(tiny_folder)[0]
        attach(model, AdapterConfig.model_validate({"kind": kind} | KINDS[kind] | settings), preset, steps=100, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path / f"{kind}-{seed}-{len(list(tmp_path.iterdir()))}"
        save_adapter(model, folder)
        return folder

    return adapter


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that PEFT makes of a base and a saved adapter."""
    from peft import PeftModel

    found: dict[str, torch.Tensor] = PeftModel.from_pretrained(load_pair(base)[0], adapter).merge_and_unload(safe_merge=True).state_dict()
    return found


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one)


@pytest.mark.parametrize("factor", [0.3, 1.5])
@pytest.mark.parametrize("kind", LINEAR)
def test_the_merged_update_is_that_of_the_adapter_times_the_factor(
    tiny_folder: Path, make: Make, tmp_path: Path, kind: str, factor: float
) -> None:
    adapter = make(kind)
    base, whole = load_pair(tiny_folder)[0].state_dict(), merged(tiny_folder, adapter)
    found = merged(tiny_folder, scale_adapter(adapter, lambda _: factor, tmp_path / "out"))
    assert any((whole[name] - base[name]).abs().max() > 0.01 for name in base)
    assert all(torch.allclose(found[name], base[name] + factor * (whole[name] - base[name]), atol=1e-6, rtol=1e-6) for name in base)


@pytest.mark.parametrize("kind", LINEAR)
def test_factor_0_is_the_base_to_the_bit(tiny_folder: Path, make: Make, tmp_path: Path, kind: str) -> None:
    found = merged(tiny_folder, scale_adapter(make(kind), lambda _: 0.0, tmp_path / "out"))
    assert same_bits(found, load_pair(tiny_folder)[0].state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_factor_1_keeps_the_adapter_to_the_bit(make: Make, tmp_path: Path, kind: str) -> None:
    adapter = make(kind)
    values = {name: torch.where(one < 0.01, -0.0, one) for name, one in load_file(adapter / WEIGHTS).items()}
    save_file(values, adapter / WEIGHTS)
    found = scale_adapter(adapter, lambda _: 1.0, tmp_path / "out")
    assert same_bits(load_file(found / WEIGHTS), values)
    assert (found / CONFIG).read_bytes() == (adapter / CONFIG).read_bytes()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_result_is_what_peft_itself_makes_of_the_factor(tiny_folder: Path, make: Make, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel
    from peft.helpers import rescale_adapter_scale

    adapter = make(kind)
    written = PeftModel.from_pretrained(load_pair(tiny_folder)[0], scale_adapter(adapter, lambda _: 0.4, tmp_path / "out")).eval()
    whole = PeftModel.from_pretrained(load_pair(tiny_folder)[0], adapter).eval()
    with torch.no_grad(), rescale_adapter_scale(whole, 0.4):
        expected = whole(input_ids=IDS).logits
    with torch.no_grad():
        assert torch.allclose(written(input_ids=IDS).logits, expected, atol=1e-5)
        assert not torch.allclose(whole(input_ids=IDS).logits, expected, atol=1e-2)


@pytest.mark.parametrize("kind", LINEAR)
def test_each_module_has_a_factor_of_its_own(tiny_folder: Path, make: Make, tmp_path: Path, kind: str) -> None:
    adapter = make(kind)
    only = "model.language_model.layers.1.mlp.down_proj"
    found = merged(tiny_folder, scale_adapter(adapter, lambda name: float(name == only), tmp_path / "out"))
    base, whole = load_pair(tiny_folder)[0].state_dict(), merged(tiny_folder, adapter)
    moved = {name for name in base if not torch.equal(found[name], base[name])}
    assert moved == {f"{only}.weight"}
    assert torch.equal(found[f"{only}.weight"], whole[f"{only}.weight"])


def test_an_adapter_stored_in_bf16_is_scaled_in_float32(make: Make, tmp_path: Path) -> None:
    adapter = make("lora")
    values = {name: one.bfloat16() for name, one in load_file(adapter / WEIGHTS).items()}
    save_file(values, adapter / WEIGHTS)
    found = load_file(scale_adapter(adapter, lambda _: 0.3, tmp_path / "out") / WEIGHTS)
    name = next(name for name in values if name.endswith("lora_B.weight"))
    assert torch.equal(found[name], 0.3 * values[name].float())
    kept = load_file(scale_adapter(adapter, lambda _: 1.0, tmp_path / "kept") / WEIGHTS)
    assert kept[name].dtype == torch.bfloat16 and torch.equal(kept[name], values[name])


@pytest.mark.parametrize("alpha", [0.25, 0.7])
def test_joined_ranks_are_the_interpolated_weights(tiny_folder: Path, make: Make, tmp_path: Path, alpha: float) -> None:
    first, second = make("lora"), make("lora", seed=5, rank=3, alpha=6.0)
    one, two = merged(tiny_folder, first), merged(tiny_folder, second)
    found = merged(tiny_folder, join_adapters(first, second, alpha, tmp_path / "out"))
    assert all(torch.allclose(found[name], torch.lerp(one[name], two[name], alpha), atol=1e-6, rtol=1e-6) for name in one)


def test_joining_scales_that_grow_with_the_roots_of_ranks_is_exact_too(tiny_folder: Path, make: Make, tmp_path: Path) -> None:
    first, second = make("lora"), make("lora", seed=5)
    config = json.loads((first / CONFIG).read_text())
    (first / CONFIG).write_text(json.dumps(config | {"use_rslora": True}))
    one, two = merged(tiny_folder, first), merged(tiny_folder, second)
    found = merged(tiny_folder, join_adapters(first, second, 0.5, tmp_path / "out"))
    assert all(torch.allclose(found[name], torch.lerp(one[name], two[name], 0.5), atol=1e-6, rtol=1e-6) for name in one)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_joined_adapters_are_these_to_the_bit(make: Make, tmp_path: Path, alpha: float) -> None:
    first, second = make("lora"), make("lora", seed=5, rank=3)
    found, expected = join_adapters(first, second, alpha, tmp_path / "out"), second if alpha else first
    assert same_bits(load_file(found / WEIGHTS), load_file(expected / WEIGHTS))
    assert (found / CONFIG).read_bytes() == (expected / CONFIG).read_bytes()


def test_adapters_on_other_modules_cannot_be_joined(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"on different modules: .*mlp\.\w+_proj\.lora_A\.weight only in .* give adapters of one preset"):
        join_adapters(make("lora"), make("lora", preset="sa_proj"), 0.5, tmp_path / "out")


def test_adapters_of_models_of_other_sizes_cannot_be_joined(make: Make, tmp_path: Path) -> None:
    first, second = make("lora"), make("lora", seed=5)
    values = load_file(second / WEIGHTS)
    save_file({name: one[:, :-1].contiguous() if "lora_A" in name else one for name, one in values.items()}, second / WEIGHTS)
    with pytest.raises(ValueError, match=r"is \[4, 64\] in .*, \[4, 63\] in .*: not of one base"):
        join_adapters(first, second, 0.5, tmp_path / "out")


@pytest.mark.parametrize("kind", ["dora", "adalora", "ia3"])
def test_only_plain_loras_can_be_joined(make: Make, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="only plain LoRAs of one rank can be joined"):
        join_adapters(make("lora"), make(kind), 0.5, tmp_path / "out")


def test_tensors_that_are_no_adapters_of_linear_layers_are_refused(make: Make, tmp_path: Path) -> None:
    adapter = make("lora")
    save_file(load_file(adapter / WEIGHTS) | {"base_model.model.lm_head.lora_B.bias": torch.zeros(3)}, adapter / WEIGHTS)
    with pytest.raises(ValueError, match=r"lm_head\.lora_B\.bias belongs to no adapter of a linear layer"):
        scale_adapter(adapter, lambda _: 0.5, tmp_path / "out")


def test_adapters_of_other_types_are_refused_by_name(make: Make, tmp_path: Path) -> None:
    adapter = make("lora")
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | {"peft_type": "VERA"}))
    with pytest.raises(ValueError, match="adapters of type VERA cannot be scaled here; supported are LORA, ADALORA, IA3"):
        scale_adapter(adapter, lambda _: 0.5, tmp_path / "out")


def test_a_folder_without_an_adapter_says_where_one_lies(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model holds no adapter_config.json; give a checkpoint of a run with adapters"):
        scale_adapter(tiny_folder, lambda _: 0.5, tmp_path / "out")


def test_a_folder_that_exists_is_left_alone(make: Make) -> None:
    adapter = make("lora")
    with pytest.raises(ValueError, match=r"exists; remove it, or give another folder"):
        scale_adapter(adapter, lambda _: 0.5, adapter)


@pytest.mark.parametrize(
    ("kind", "section"),
    [
        ("lora", {"kind": "lora", "rank": 4, "alpha": 8.0}),
        ("dora", {"kind": "dora", "rank": 4, "alpha": 4.0}),
        ("adalora", {"kind": "adalora", "rank": 4, "initial_rank": 6, "alpha": 4.0}),
        ("ia3", {"kind": "ia3"}),
    ],
)
def test_a_saved_adapter_tells_its_recipe(make: Make, kind: str, section: dict[str, Any]) -> None:
    adapter = make(kind)
    assert describe(adapter) == section
    assert is_linear(adapter) is (kind != "dora")
    assert "model.language_model.layers.0.self_attn.q_proj" in modules(adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trained_whole_beside_an_adapter_is_found_in_the_merged_model(tiny_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_pair(tiny_folder)[0]
    attach(model, AdapterConfig(kind="lora", rank=4), "sa_proj+projector", steps=1, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    shutil.copytree(tiny_folder, tmp_path / "tuned")
    save_adapter(model, tmp_path / "adapter")
    plain = load_pair(tiny_folder)[0]
    plain.load_state_dict(merged_state(model))
    plain.to(dtype).save_pretrained(tmp_path / "tuned")
    found = trained_whole(tmp_path / "tuned", load_pair(tiny_folder)[0].state_dict(), modules(tmp_path / "adapter"))
    assert set(found) == {f"model.multi_modal_projector.linear_{at}.{kind}" for at in (1, 2) for kind in ("weight", "bias")}
    assert all(torch.equal(one, plain.state_dict()[name]) for name, one in found.items())
