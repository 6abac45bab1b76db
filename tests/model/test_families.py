"""Presets on every family, at tiny size: what they name, what a step moves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.chat import encode
from data.conversation import Conversation, Turn
from data.images import ImageSource
from data.pictures import pictures_of
from model.build import load_pair
from model.layout import is_reachable, layout_of
from model.presets import PRESETS, apply

FAMILIES = ("llava-clip-llama", "llava-siglip-qwen2", "llava-clip-qwen3", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
BLOCK_PRESETS = ("llm", "llm_blocks", "sa_proj", "sa_qkv", "mlp", "mlp_gate_up", "mlp_down")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> tuple[Any, Any]:
    return load_pair(family_folder(request.param), attention="eager")


@pytest.fixture(scope="module")
def loss(pair: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The loss of one question about one picture, its graph reaching every parameter that it can."""
    from PIL import Image

    model, processor = pair
    path = tmp_path_factory.mktemp("picture") / "one.png"
    Image.linear_gradient("L").convert("RGB").resize((56, 40)).save(path)
    turns = (Turn(role="user", text="<image>\nWhat colour is the square?"), Turn(role="assistant", text="The square is red."))
    pictures = pictures_of(processor)
    encoded = encode(Conversation(id="0", turns=turns, images=(ImageSource(str(path)),)), processor.tokenizer, pictures=pictures)
    from data.collate import Collator
    from data.images import load_image

    ids, learned = torch.from_numpy(encoded.input_ids).long(), torch.from_numpy(encoded.labels_mask)
    sample = {
        "input_ids": ids,
        "labels": torch.where(learned, ids, -100),
        "weights": learned.float(),
        "images": [load_image(path)],
        "source": 0,
    }
    model.requires_grad_(True)
    return model(**Collator(processor.tokenizer, pictures)([[sample]]), use_cache=False).loss


@pytest.fixture(scope="module")
def gradients(pair: tuple[Any, Any], loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    named = dict(pair[0].named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))


def test_a_gradient_reaches_exactly_what_the_layout_calls_reachable(pair: tuple[Any, Any], gradients: dict[str, Any]) -> None:
    reached = {name for name, gradient in gradients.items() if gradient is not None}
    assert reached == {name for name in gradients if is_reachable(name, pair[0].config)}


def test_every_parameter_has_a_part(pair: tuple[Any, Any]) -> None:
    layout = layout_of(pair[0].config)
    assert {layout.part_of(name) for name, _ in pair[0].named_parameters()} == {"vision_tower", "projector", "language_model", "lm_head"}


@pytest.mark.parametrize("preset", PRESETS)
def test_one_step_moves_exactly_the_manifests_tensors(pair: tuple[Any, Any], gradients: dict[str, Any], preset: str) -> None:
    model = pair[0]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    manifest = apply(model, preset)
    with torch.no_grad():  # one step of gradient descent on what trains, each gradient at its largest 1
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += gradients[name] / gradients[name].abs().max()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    model.requires_grad_(True)
    assert moved == {tensor.name for tensor in manifest.tensors}


@pytest.mark.parametrize("preset", BLOCK_PRESETS)
def test_the_vision_tower_never_moves_under_a_preset_of_the_language_model(pair: tuple[Any, Any], preset: str) -> None:
    manifest = apply(pair[0], preset)
    assert {tensor.group for tensor in manifest.tensors} <= {"language_model", "lm_head"}
    assert not [tensor.name for tensor in manifest.tensors if "vis" in tensor.name]
    pair[0].requires_grad_(True)


def test_biases_of_chosen_projections_train_with_them(family_folder: Callable[[str], Path]) -> None:
    model = load_pair(family_folder("llava-siglip-qwen2"))[0]
    chosen = {tensor.name.removeprefix("model.language_model.layers.0.") for tensor in apply(model, "sa_qkv[0]").tensors}
    assert chosen == {f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")}


def test_norms_of_queries_and_keys_stay_frozen_in_block_presets(family_folder: Callable[[str], Path]) -> None:
    model = load_pair(family_folder("llava-clip-qwen3"))[0]
    assert not [tensor.name for tensor in apply(model, "llm_blocks").tensors if "norm" in tensor.name]
    assert [tensor.name for tensor in apply(model, "llm").tensors if "q_norm" in tensor.name]
