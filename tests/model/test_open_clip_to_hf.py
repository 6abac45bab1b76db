"""Towers of open_clip as towers of transformers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, LlavaProcessor

from model import open_clip_to_hf
from model.open_clip_to_hf import TOLERANCE, build, convert, obstacles
from model.vision import load_tower

SEED = 3


def drawn(name: str) -> Any:
    """The open_clip tower with the weights that `convert` draws from SEED."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build(name)


def write_weights(name: str, file: Path) -> Any:
    """Saves a whole model's file, in which no bias is zero and no norm the identity; gives the tower."""
    visual, generator = drawn(name), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    tensors = {f"visual.{key}": tensor for key, tensor in visual.state_dict().items()}
    tensors |= {"logit_scale": torch.ones(1), "visual.proj": torch.ones(2, 2), "visual.head.proj.weight": torch.ones(2, 2)}
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"epoch": 1, "state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()}}, file)
    return visual


@torch.no_grad()
def difference(visual: Any, folder: Path) -> float:
    """Largest difference of layers and pooled output, between open_clip's own way to them and the saved folder in transformers."""
    tower = AutoModel.from_pretrained(folder)
    pixels = torch.rand(1, 3, *visual.image_size, generator=torch.Generator().manual_seed(1))
    theirs = visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
    states = theirs["image_intermediates"]
    if prefixes := theirs.get("image_intermediates_prefix"):
        states = [torch.cat(pair, dim=1) for pair in zip(prefixes, states, strict=True)]
    ours = tower(pixel_values=pixels, output_hidden_states=True)
    pairs = zip([*states, theirs["image_features"]], [*ours.hidden_states[1:], ours.pooler_output], strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def read(folder: Path, file: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / file).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Folders of full-size towers with random weights, each converted once."""
    folder = tmp_path_factory.mktemp("full_size")
    yield lambda name: folder / name if (folder / name).is_dir() else convert(name, None, folder / name, seed=SEED)
    shutil.rmtree(folder)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every ViT two layers deep and open_clip's own two heads wide; called with fields of a vision config, sets them too."""
    original, changes = open_clip.get_model_config, {}

    def config(name: str) -> dict[str, Any]:
        found = original(name)
        vision = found["vision_cfg"]
        if "timm_model_name" not in vision:
            vision |= {"layers": 2, "width": 2 * vision.get("head_width", 64), "image_size": 4 * vision["patch_size"]}
        vision |= changes
        return found

    monkeypatch.setattr(open_clip, "get_model_config", config)
    timm = open_clip.timm_model.timm
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    return changes.update


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16-SigLIP"])
def test_a_full_size_model_has_the_same_features_in_plain_transformers(name: str, full_size: Callable[[str], Path]) -> None:
    assert difference(drawn(name), full_size(name)) <= TOLERANCE


def test_the_large_model_at_336_pixels_is_proven_equal_in_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip_to_hf, "IMAGES", 1)
    folder = convert("ViT-L-14-336", None, tmp_path / "tower")
    proven = read(folder, "open_clip.json")["largest_differences"]
    shutil.rmtree(folder)
    assert len(proven) == 26 and max(proven.values()) <= TOLERANCE


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-quickgelu", "ViT-bigG-14", "coca_base", "ViT-B-16-SigLIP", "MobileCLIP2-L-14"])
def test_every_bias_and_norm_of_a_weights_file_arrives(name: str, small: Callable[..., None], tmp_path: Path) -> None:
    visual = write_weights(name, tmp_path / "weights.safetensors")
    assert difference(visual, convert(name, tmp_path / "weights.safetensors", tmp_path / "tower")) <= TOLERANCE


def test_a_training_checkpoint_of_open_clip_is_read(small: Callable[..., None], tmp_path: Path) -> None:
    visual = write_weights("ViT-B-32", tmp_path / "epoch_1.pt")
    assert difference(visual, convert("ViT-B-32", tmp_path / "epoch_1.pt", tmp_path / "tower")) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("ViT-B-32", "gelu"),
        ("ViT-B-32-quickgelu", "quick_gelu"),
        ("ViT-B-16-SigLIP", "gelu"),
        ("ViT-gopt-16-SigLIP2-256", "gelu_pytorch_tanh"),
    ],
)
def test_the_activation_is_the_models_own(name: str, activation: str, small: Callable[..., None]) -> None:
    with torch.device("meta"):
        sketch = build(name)
    assert open_clip_to_hf._skeleton(sketch).config.hidden_act == activation


def test_a_tag_trained_with_quickgelu_gets_it_whatever_the_name_says(
    small: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights("ViT-B-32", tmp_path / "weights.safetensors")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: tmp_path / "weights.safetensors")
    assert read(convert("ViT-B-32", "openai", tmp_path / "tower"))["hidden_act"] == "quick_gelu"


def test_the_same_seed_gives_the_same_tower_whatever_the_global_state(small: Callable[..., None], tmp_path: Path) -> None:
    first = convert("ViT-B-32", None, tmp_path / "first", seed=SEED)
    torch.rand(7)
    second = convert("ViT-B-32", None, tmp_path / "second", seed=SEED)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_the_global_random_state_stays_as_it_was(small: Callable[..., None], tmp_path: Path) -> None:
    before = torch.get_rng_state()
    convert("ViT-B-32", None, tmp_path / "tower")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP"])
def test_the_saved_processor_prepares_an_image_as_open_clip_does(name: str, small: Callable[..., None], tmp_path: Path) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    published = open_clip.get_pretrained_cfg(name, {"ViT-B-32": "laion2b_s34b_b79k", "ViT-B-16-SigLIP": "webli"}[name])
    fields = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    image = Image.effect_noise((320, 240), 80).convert("RGB")
    expected = image_transform_v2(PreprocessCfg(size=build(name).image_size, **fields), is_train=False)(image)
    processor = AutoImageProcessor.from_pretrained(convert(name, None, tmp_path / "tower"), backend="pil")
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], expected, rtol=0, atol=1e-5)


def test_a_config_beside_the_weights_says_how_images_are_prepared(small: Callable[..., None], tmp_path: Path) -> None:
    write_weights("ViT-L-14", tmp_path / "open_clip_model.safetensors")
    described = {"preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "interpolation": "bilinear"}, "model_cfg": {"quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described), encoding="utf-8")
    processor = AutoImageProcessor.from_pretrained(convert("ViT-L-14", tmp_path / "open_clip_model.safetensors", tmp_path / "tower"))
    assert (list(processor.image_mean), processor.resample) == ([0.5, 0.4, 0.3], 2)


@pytest.mark.parametrize(("name", "tokens"), [("ViT-B-32", 16), ("ViT-B-16-SigLIP", 196)])
def test_the_image_tokens_of_a_converted_tower_can_be_counted(
    name: str, tokens: int, small: Callable[..., None], tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    tower = load_tower(convert(name, None, tmp_path / "tower"))
    processor = LlavaProcessor(
        image_processor=tower.image_processor,
        tokenizer=tiny[1].tokenizer,
        patch_size=tower.model.config.patch_size,
        vision_feature_select_strategy=tower.strategy,
        num_additional_image_tokens=int(tower.has_class_token),
    )
    assert processor._get_num_multimodal_tokens(image_sizes=[(8, 8)]).num_image_tokens == [tokens]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "ModifiedResNet"),
        ("convnext_base", "ConvNeXt"),
        ("EVA02-B-16", "Eva"),
        ("MobileCLIP-B", "patches come from a HybridEmbed"),
        ("coca_ViT-B-32", "unexpected: a pooling by attention"),
        ("ViT-L-14-CLIPA", "pools by 'avg'.*missing: a norm before the first block"),
        ("ViT-M-16-alt", "unexpected: layer scale"),
        ("vit_medium_patch16_gap_256", "pools by 'avg'.*missing: a pooling by attention"),
    ],
)
def test_a_model_that_transformers_cannot_hold_is_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} fits no vision tower of transformers: .*{reason}"):
        convert(name, None, tmp_path / "tower")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"scaled_cosine_attn": True}, "scaled or gated attention"),
        ({"scale_heads": True}, "scaled or gated attention"),
        ({"scale_attn_inner": True}, "a further norm"),
        ({"scale_attn": True}, "a further norm"),
        ({"scale_fc": True}, "a further norm"),
        ({"no_ln_pre": True}, "missing: a norm before the first block"),
        ({"pos_embed_type": "sin_cos_2d"}, "fixed sines and cosines"),
        ({"pool_type": "avg"}, "pools by 'avg'"),
        ({"image_size": (64, 128)}, "not square"),
        ({"patch_size": (16, 32)}, "not square"),
    ],
)
def test_each_variant_of_open_clips_vit_has_its_reason(fields: dict[str, Any], reason: str, small: Callable[..., None]) -> None:
    small(**fields)
    with torch.device("meta"):
        sketch = build("ViT-B-16")
    assert reason in "; ".join(obstacles(sketch))


@pytest.mark.parametrize(
    "fields", [{"patch_dropout": 0.5}, {"norm_kwargs": {"eps": 1e-6}}, {"block_type": "custom"}, {"output_tokens": True}]
)
def test_what_changes_no_feature_or_fits_a_config_is_no_obstacle(
    fields: dict[str, Any], small: Callable[..., None], tmp_path: Path
) -> None:
    small(**fields)
    assert difference(drawn("ViT-B-16"), convert("ViT-B-16", None, tmp_path / "tower", seed=SEED)) <= TOLERANCE


def test_a_failed_proof_names_the_first_wrong_layer_and_writes_nothing(
    small: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = open_clip_to_hf.translate

    def wrong(weights: dict[str, Any]) -> dict[str, Any]:
        translated = original(weights)
        return translated | {"encoder.layers.1.mlp.fc2.bias": translated["encoder.layers.1.mlp.fc2.bias"] + 2e-4}

    monkeypatch.setattr(open_clip_to_hf, "translate", wrong)
    with pytest.raises(ValueError, match=r"differ from layer 2 on, by 0\.0002"):
        convert("ViT-B-32", None, tmp_path / "tower")
    assert not list(tmp_path.iterdir())


def test_activations_as_large_as_those_of_real_towers_do_not_fail_the_proof(small: Callable[..., None], tmp_path: Path) -> None:
    visual = write_weights("ViT-L-14", tmp_path / "weights.safetensors")
    tensors = {f"visual.{key}": tensor for key, tensor in visual.state_dict().items()}
    tensors["visual.transformer.resblocks.0.mlp.c_proj.bias"][7] += 2000
    save_file(tensors, tmp_path / "weights.safetensors")
    folder = convert("ViT-L-14", tmp_path / "weights.safetensors", tmp_path / "tower")
    assert max(read(folder, "open_clip.json")["largest_differences"].values()) <= TOLERANCE


def test_features_that_are_no_numbers_prove_nothing(small: Callable[..., None], tmp_path: Path) -> None:
    tensors = {f"visual.{key}": torch.full_like(tensor, torch.nan) for key, tensor in build("ViT-B-32").state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="differ from the embeddings on, by nan"):
        convert("ViT-B-32", tmp_path / "weights.safetensors", tmp_path / "tower")


def test_weights_that_do_not_fit_are_named(small: Callable[..., None], tmp_path: Path) -> None:
    write_weights("ViT-B-32", tmp_path / "weights.safetensors")
    small(layers=3)
    with pytest.raises(ValueError, match=r"do not fit .*ViT-B-32; missing: transformer\.resblocks\.2\.attn\.in_proj_bias, .* \.\.\."):
        convert("ViT-B-32", tmp_path / "weights.safetensors", tmp_path / "tower")


def test_a_file_that_would_run_code_is_not_read(small: Callable[..., None], tmp_path: Path) -> None:
    torch.save({"state_dict": {"visual.proj": Path("x")}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="no tensors that can be read safely"):
        convert("ViT-B-32", tmp_path / "weights.pt", tmp_path / "tower")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model 'ViT-B/32'; the nearest name: ViT-B-32"):
        convert("ViT-B/32", None, tmp_path / "tower")


def test_unknown_weights_are_answered_with_the_models_tags(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'webly' is neither a file nor a tag of ViT-B-16-SigLIP; its tags: webli"):
        convert("ViT-B-16-SigLIP", "webly", tmp_path / "tower")


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="absent or empty"):
        convert("ViT-B-32", None, tmp_path)


def test_an_empty_folder_is_filled(small: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "tower").mkdir()
    assert read(convert("ViT-B-32", None, tmp_path / "tower"), "open_clip.json")["name"] == "ViT-B-32"


def test_importing_the_module_imports_no_library() -> None:
    script = "import sys, model.open_clip_to_hf; print(*{'torch', 'transformers', 'open_clip', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == ""
