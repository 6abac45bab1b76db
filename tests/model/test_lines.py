"""LiNeS: which layer's update is scaled by how much."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.architectures import on_meta
from model.build import load_pair
from model.lines import factors, lines

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}


def llava(layers: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    tower = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16)
    return on_meta(LlavaConfig(vision_config=tower, text_config=LlamaConfig(num_hidden_layers=layers, **SIZES), image_token_index=5))


def text_only(tied: bool) -> Any:
    from transformers import LlamaConfig

    return on_meta(LlamaConfig(num_hidden_layers=4, tie_word_embeddings=tied, **SIZES))


@pytest.fixture
def tuned(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with every tensor moved."""
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_folder, folder)
    values, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(1)
    moved = {name: one + torch.randn(one.shape, generator=generator) for name, one in values.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def update(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    return {name: after[name] - before[name] for name in before}


def test_the_factors_of_four_layers_lie_on_a_straight_line() -> None:
    factor_of = factors(llava(4), 0.1, 1.0)
    found = [factor_of(f"model.language_model.layers.{layer}.self_attn.q_proj.weight") for layer in range(4)]
    assert found == pytest.approx([0.1, 0.4, 0.7, 1.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.vision_tower.encoder.layers.1.mlp.fc1.weight", 0.1),  # a tower has layers too: they are none of the language model's
        ("model.multi_modal_projector.linear_2.weight", 0.1),
        ("model.language_model.embed_tokens.weight", 0.1),
        ("model.language_model.norm.weight", 0.9),
        ("lm_head.weight", 0.9),
    ],
)
def test_what_lies_before_the_layers_goes_with_the_first_what_lies_behind_with_the_last(name: str, expected: float) -> None:
    model = llava(4)
    assert name in dict(model.named_parameters())
    assert factors(model, 0.1, 0.9)(name) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_counts_as_embeddings_where_it_is_tied_to_them(tied: bool) -> None:
    model = text_only(tied)
    assert ("lm_head.weight" in dict(model.named_parameters())) is not tied
    assert factors(model, 0.1, 0.9)("model.embed_tokens.weight") == 0.1
    assert factors(model, 0.1, 0.9)("model.norm.weight") == 0.9
    assert factors(model, 0.1, 0.9)("lm_head.weight") == (0.1 if tied else 0.9)


def test_the_only_layer_of_a_model_is_its_last() -> None:
    assert factors(llava(1), 0.1, 0.9)("model.language_model.layers.0.mlp.up_proj.weight") == 0.9


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_every_family_has_its_tower_at_the_first_factor_and_its_head_at_the_last(family_folder: Callable[[str], Path], family: str) -> None:
    model = load_pair(family_folder(family))[0]
    factor_of, named = factors(model, 0.1, 0.9), dict(model.named_parameters())
    tower = [name for name in named if name.startswith(("model.vision_tower.", "model.visual.", "model.multi_modal_projector."))]
    assert tower and {factor_of(name) for name in tower} == {0.1}
    head = "lm_head.weight" if "lm_head.weight" in named else "model.language_model.norm.weight"
    assert factor_of(head) == 0.9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vision_tower.encoder.layers.1.mlp.fc1.weight", 0.2),
        ("language_model.model.layers.0.mlp.up_proj.weight", 0.2),
        ("language_model.model.layers.1.mlp.up_proj.weight", 0.8),
        ("language_model.lm_head.weight", 0.8),
    ],
)
def test_the_written_update_is_that_of_the_tuned_model_times_its_layers_factor(
    tiny_folder: Path, tuned: Path, tmp_path: Path, name: str, expected: float
) -> None:
    found = update(lines(tiny_folder, tuned, 0.2, 0.8, tmp_path / "out"), tiny_folder)[name]
    assert torch.allclose(found, expected * update(tuned, tiny_folder)[name], atol=1e-6)


@pytest.mark.parametrize(("factor", "end"), [(0.0, "base"), (1.0, "tuned")])
def test_equal_factors_of_0_and_1_give_an_endpoint_bit_by_bit(
    tiny_folder: Path, tuned: Path, tmp_path: Path, factor: float, end: str
) -> None:
    found = load_file(lines(tiny_folder, tuned, factor, factor, tmp_path / "out") / "model.safetensors")
    expected = load_file((tiny_folder if end == "base" else tuned) / "model.safetensors")
    assert all(torch.equal(found[name].view(torch.int32), expected[name].view(torch.int32)) for name in expected)


def test_the_result_loads_as_a_model_with_its_processor(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    model, processor = load_pair(lines(tiny_folder, tuned, 0.0, 1.0, tmp_path / "out"))
    assert torch.equal(model.state_dict()["lm_head.weight"], load_file(tuned / "model.safetensors")["language_model.lm_head.weight"])
    assert processor.tokenizer.chat_template
