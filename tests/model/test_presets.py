"""Each preset trains what it says, and nothing else."""

from typing import Any

import pytest

from model.presets import PRESETS, apply, check, names, select

LAYERS = ("0", "1")
EXPECTED = {
    "projector": {"model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"},
    "sa_proj": {f"model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in LAYERS for name in "qkvo"},
    "mlp_gate_up": {f"model.language_model.layers.{layer}.mlp.{name}_proj" for layer in LAYERS for name in ("gate", "up")},
}


def modules(model: Any, preset: str) -> set[str]:
    return {name.rpartition(".")[0] for name in select(model, preset)}


@pytest.mark.parametrize("preset", EXPECTED)
def test_a_block_preset_trains_exactly_its_modules(tiny: tuple[Any, Any], preset: str) -> None:
    assert modules(tiny[0], preset) == EXPECTED[preset]


def test_llm_trains_every_parameter_of_backbone_and_head(tiny: tuple[Any, Any]) -> None:
    wanted = {name for name, _ in tiny[0].named_parameters() if name.startswith(("model.language_model.", "lm_head."))}
    assert set(select(tiny[0], "llm")) == wanted


def test_vision_trains_the_tower_but_for_its_last_norm_that_nothing_reads(tiny: tuple[Any, Any]) -> None:
    tower = {name for name, _ in tiny[0].named_parameters() if name.startswith("model.vision_tower.")}
    assert tower - set(select(tiny[0], "vision")) == {f"model.vision_tower.post_layernorm.{part}" for part in ("weight", "bias")}


def test_full_trains_all_that_a_gradient_reaches(tiny: tuple[Any, Any]) -> None:
    everything = {name for name, _ in tiny[0].named_parameters()}
    assert everything - set(select(tiny[0], "full")) == {f"model.vision_tower.post_layernorm.{part}" for part in ("weight", "bias")}


def test_tower_layers_above_the_one_read_do_not_train(tiny: tuple[Any, Any]) -> None:
    tiny[0].config.vision_feature_layer = -2
    assert not [name for name in select(tiny[0], "full") if name.startswith("model.vision_tower.encoder.layers.1")]
    assert [name for name in select(tiny[0], "full") if name.startswith("model.vision_tower.encoder.layers.0")]


@pytest.mark.parametrize("preset", ["llm", "sa_proj", "mlp_gate_up", "projector", "sa_proj+mlp_gate_up"])
def test_no_preset_of_the_language_model_touches_the_vision_tower(tiny: tuple[Any, Any], preset: str) -> None:
    assert not [name for name in select(tiny[0], preset) if "vision_tower" in name]


def test_plus_trains_the_union(tiny: tuple[Any, Any]) -> None:
    assert modules(tiny[0], "sa_proj+projector") == EXPECTED["sa_proj"] | EXPECTED["projector"]


def test_a_preset_that_matches_nothing_is_an_error(tiny: tuple[Any, Any]) -> None:
    from model.language import extract

    with pytest.raises(ValueError, match="preset 'projector' matches no parameter of LlamaForCausalLM"):
        select(extract(tiny[0]), "sa_proj+projector")


def test_a_text_only_model_has_the_same_presets(tiny: tuple[Any, Any]) -> None:
    from model.language import extract

    expected = {name.replace("model.language_model.", "model.") for name in EXPECTED["sa_proj"]}
    assert modules(extract(tiny[0]), "sa_proj") == expected


@pytest.mark.parametrize(("wrong", "near"), [("sa_prj", "sa_proj"), ("llm+visoin", "vision"), ("", "")])
def test_an_unknown_preset_lists_the_nearest_one(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown preset .*did you mean '{near}"):
        names(wrong)


def test_apply_freezes_all_else_and_counts_what_trains(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    manifest = apply(model, "sa_proj")
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(trains) == {tensor.name for tensor in manifest.tensors} == set(select(model, "sa_proj"))
    assert manifest.trainable_parameters == sum(parameter.numel() for parameter in trains.values()) == 2 * 4 * 32 * 32


def test_manifests_of_different_presets_have_different_hashes(tiny: tuple[Any, Any]) -> None:
    assert len({apply(tiny[0], preset).sha256 for preset in PRESETS}) == len(PRESETS)


def test_check_finds_a_parameter_that_began_to_train(tiny: tuple[Any, Any]) -> None:
    manifest = apply(tiny[0], "sa_proj")
    check(tiny[0], manifest)
    tiny[0].lm_head.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"lm_head\.weight.* should not"):
        check(tiny[0], manifest)
