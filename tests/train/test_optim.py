"""What decays."""

from typing import Any

from model.presets import apply
from train.optim import build_optimizer, parameter_groups


def test_matrices_decay_while_norms_biases_embeddings_do_not(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    apply(model, "full")
    decays, rest = ({names[id(one)] for one in group["params"]} for group in parameter_groups(model, 0.1))
    assert "lm_head.weight" in decays
    assert "model.multi_modal_projector.linear_1.weight" in decays
    assert {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight"} <= rest
    assert "model.vision_tower.embeddings.position_embedding.weight" in rest
    assert not [name for name in decays if "norm" in name or name.endswith("bias")]


def test_frozen_parameters_are_in_no_group(tiny: tuple[Any, Any]) -> None:
    manifest = apply(tiny[0], "sa_proj")
    optimizer = build_optimizer(tiny[0], 1e-3, 0.1)
    assert sum(one.numel() for group in optimizer.param_groups for one in group["params"]) == manifest.trainable_parameters
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]
