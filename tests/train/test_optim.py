"""Which tensors decay, at which rates they train."""

from typing import Any

import pytest

from model.presets import apply
from train.config import TrainConfig
from train.optim import build_optimizer, parameter_groups, with_rates


def planned(model: Any, preset: str, **values: Any) -> Any:
    return with_rates(model, apply(model, preset), TrainConfig.model_validate({"learning_rate": 1e-3, "weight_decay": 0.1} | values))


def test_matrices_decay_while_norms_biases_embeddings_do_not(tiny: tuple[Any, Any]) -> None:
    manifest = planned(tiny[0], "full")
    decays = {tensor.name for tensor in manifest.tensors if tensor.weight_decay == 0.1}
    rest = {tensor.name for tensor in manifest.tensors if tensor.weight_decay == 0.0}
    assert "lm_head.weight" in decays
    assert "model.multi_modal_projector.linear_1.weight" in decays
    assert {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight"} <= rest
    assert "model.vision_tower.embeddings.position_embedding.weight" in rest
    assert not [name for name in decays if "norm" in name or name.endswith("bias")]
    assert len(decays) + len(rest) == len(manifest.tensors)


def test_frozen_parameters_are_in_no_group(tiny: tuple[Any, Any]) -> None:
    manifest = planned(tiny[0], "sa_proj")
    optimizer = build_optimizer(tiny[0], manifest)
    assert sum(one.numel() for group in optimizer.param_groups for one in group["params"]) == manifest.trainable_parameters
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


def test_each_part_trains_at_its_own_rate_with_its_own_decay(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    manifest = planned(model, "full", parts={"vision": {"learning_rate": 2e-6, "weight_decay": 0.0}, "projector": {"learning_rate": 5e-3}})
    rates = {name: {tensor.learning_rate for tensor in manifest.tensors if tensor.group == name} for name in ("vision_tower", "projector")}
    assert rates == {"vision_tower": {2e-6}, "projector": {5e-3}}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(one)]: (group["lr"], group["weight_decay"]) for group in parameter_groups(model, manifest) for one in group["params"]}
    assert found["model.vision_tower.encoder.layers.0.mlp.fc1.weight"] == (2e-6, 0.0)
    assert found["model.multi_modal_projector.linear_1.weight"] == (5e-3, 0.1)
    assert found["lm_head.weight"] == (1e-3, 0.1)


def test_a_rate_for_a_part_that_does_not_train_is_warned_of(tiny: tuple[Any, Any]) -> None:
    with pytest.warns(UserWarning, match=r"train\.parts\.vision: no effect, since preset 'sa_proj' trains nothing there"):
        planned(tiny[0], "sa_proj", parts={"vision": {"learning_rate": 1e-6}})
