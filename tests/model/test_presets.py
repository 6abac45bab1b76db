"""Each preset trains what it says, and nothing else."""

from typing import Any

import pytest

from model.architectures import on_meta
from model.manifest import check, compare
from model.presets import PRESETS, apply, parse, select

LAYERS = ("0", "1")
EXPECTED = {
    "projector": {"model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"},
    "sa_proj": {f"model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in LAYERS for name in "qkvo"},
    "sa_qkv": {f"model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in LAYERS for name in "qkv"},
    "mlp_gate_up": {f"model.language_model.layers.{layer}.mlp.{name}_proj" for layer in LAYERS for name in ("gate", "up")},
    "mlp_down": {f"model.language_model.layers.{layer}.mlp.down_proj" for layer in LAYERS},
}
EXPECTED["mlp"] = EXPECTED["mlp_gate_up"] | EXPECTED["mlp_down"]
EXPECTED["llm_blocks"] = EXPECTED["mlp"] | EXPECTED["sa_proj"]


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


@pytest.mark.parametrize("preset", ["llm", "llm_blocks", "sa_proj", "mlp", "projector", "sa_proj[0]+mlp_gate_up[-1]"])
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


@pytest.mark.parametrize(("wrong", "near"), [("sa_prj", "sa_proj"), ("llm+visoin", "vision"), ("", ""), ("sa_pro[0:1]", "sa_proj")])
def test_an_unknown_preset_lists_the_nearest_one(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown preset .*did you mean '{near}"):
        parse(wrong)


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
    with pytest.raises(RuntimeError, match=r"is not what trains now: 1 train and should not: lm_head\.weight"):
        check(tiny[0], manifest)


def of_layers(model: Any, preset: str) -> set[int]:
    return {int(name.split(".")[3]) for name in select(model, preset)}


@pytest.mark.parametrize(
    ("range_", "layers"),
    [
        ("[2:5]", {2, 3, 4}),
        ("[-2:]", {6, 7}),
        ("[:3]", {0, 1, 2}),
        ("[5]", {5}),
        ("[-1]", {7}),
        ("[:-6]", {0, 1}),
        ("[6:99]", {6, 7}),
        ("[:]", set(range(8))),
    ],
)
def test_a_range_means_what_it_means_in_python(deep: Any, range_: str, layers: set[int]) -> None:
    assert of_layers(deep, f"sa_proj{range_}") == layers


def test_each_term_has_a_range_of_its_own(deep: Any) -> None:
    found = select(deep, "sa_proj[:2]+mlp_down[-1]")
    assert {int(name.split(".")[3]) for name in found if "self_attn" in name} == {0, 1}
    assert {int(name.split(".")[3]) for name in found if "mlp" in name} == {7}


@pytest.fixture(scope="module")
def deep() -> Any:
    """Eight language layers, without numbers."""
    return on_meta(visual_config(num_hidden_layers=8))


def visual_config(text: Any = None, **options: Any) -> Any:
    import transformers as hf

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    tower = {
        "image_size": 32,
        "patch_size": 16,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    kind = text or hf.LlamaConfig
    return hf.LlavaConfig(vision_config=hf.CLIPVisionConfig(**tower), text_config=kind(vocab_size=64, **(sizes | options)))


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("sa_proj[8:]", r"'sa_proj\[8:\]' holds no layer; the model has 8, from 0 to 7"),
        ("sa_proj[]", r"an empty range; write sa_proj\[8:24\], \[-4:\] or \[3\]"),
        ("full[0:1]", r"full is not made of language layers, so no range can be given"),
        ("projector[0]", r"projector is not made of language layers"),
        ("sa_proj[a:b]", r"unknown preset 'sa_proj\[a:b\]'"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(deep: Any, preset: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(deep, preset)


def test_a_preset_of_ones_own_trains_its_modules(deep: Any) -> None:
    custom = {"values": ["language_model.layers.*.self_attn.v_proj", "language_model.norm"]}
    found = {name.rpartition(".")[0] for name in select(deep, "values", custom)}
    assert found == {f"model.language_model.layers.{layer}.self_attn.v_proj" for layer in range(8)} | {"model.language_model.norm"}


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ({"llm": ["lm_head"]}, "preset 'llm' is built in; give yours another name"),
        ({"mine": []}, "preset 'mine' has no path"),
        ({"mine": ["layers.0"]}, "path 'layers.0' begins with no part of the model; begin with one of vision_tower, projector"),
        (
            {"mine": ["language_model.layers.*.self_attn.k_prj"]},
            "needs self_attn.k_prj .* self_attn is made of k_proj, o_proj",
        ),
        ({"mine": ["language_model.nrm"]}, r"preset 'mine' matches no parameter of LlavaForConditionalGeneration \(language_model.nrm\)"),
    ],
)
def test_a_wrong_preset_of_ones_own_is_refused(deep: Any, custom: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(deep, next(iter(custom)), custom)


def test_fused_projections_are_refused_by_name() -> None:
    import transformers as hf

    model = on_meta(visual_config(hf.Phi3Config, pad_token_id=0))
    with pytest.raises(ValueError, match=r"every layer of .* is made of o_proj, qkv_proj; presets that fit this model: full, llm"):
        select(model, "sa_proj")
    with pytest.raises(ValueError, match=r"mlp is made of down_proj, gate_up_proj"):
        select(model, "mlp_gate_up")
    assert {name.split(".")[-2] for name in select(model, "mlp_down")} == {"down_proj"}


def test_a_mixture_of_experts_is_refused_by_name_while_its_attention_trains() -> None:
    import transformers as hf

    model = on_meta(visual_config(hf.Qwen3MoeConfig, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=16))
    with pytest.raises(ValueError, match=r"every layer of .* has a mixture of experts there: mlp is made of experts, gate"):
        select(model, "mlp_gate_up")
    assert of_layers(model, "sa_proj") == {0, 1}


def test_a_model_with_experts_in_some_layers_names_these() -> None:
    import transformers as hf

    options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16, "mlp_only_layers": [0]}
    model = on_meta(visual_config(hf.Qwen3MoeConfig, **options))
    with pytest.raises(ValueError, match=r"but layer 1 of .* has a mixture of experts"):
        select(model, "mlp")
    assert of_layers(model, "mlp[0]") == {0}


@pytest.mark.parametrize("path", ["lm_head", "language_model.embed_tokens"])
def test_one_of_two_tied_weights_alone_is_refused(path: str) -> None:
    import transformers as hf

    config = visual_config(hf.Qwen2Config, tie_word_embeddings=True)
    config.tie_word_embeddings = True
    model = on_meta(config)
    with pytest.raises(ValueError, match=r"ties lm_head to the embeddings"):
        select(model, "mine", {"mine": [path, "language_model.norm"]})
    assert select(model, "llm")


def test_a_saved_manifest_of_another_preset_is_told_apart(tiny: tuple[Any, Any]) -> None:
    saved = apply(tiny[0], "sa_proj").to_dict()
    compare(saved, apply(tiny[0], "sa_proj"), "runs/old")
    with pytest.raises(
        ValueError, match=r"runs/old was made by preset 'sa_proj', this run trains 'sa_qkv': 2 should train and do not: .*o_proj"
    ):
        compare(saved, apply(tiny[0], "sa_qkv"), "runs/old")


def test_a_family_without_a_layout_is_refused() -> None:
    import transformers as hf

    with pytest.raises(ValueError, match="model type 'idefics3' is not supported; supported are llava, llava_next"):
        select(on_meta(hf.Idefics3Config(text_config=hf.LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))), "llm")
