"""Loading and assembling models."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model.build import load, load_pair
from model.config import ModelConfig
from model.language import extract, save
from model.projector import initialise


def batch(processor: Any, images: int = 1) -> dict[str, torch.Tensor]:
    from PIL import Image

    return dict(processor(text="<s><|user|><image>What?", images=[Image.new("RGB", (64, 64), "red")] * images, return_tensors="pt"))


def assemble(vision: Path, language: Path, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    return load(ModelConfig.model_validate({"vision": str(vision), "language": str(language)} | options), seed)


@pytest.fixture
def language(tiny: tuple[Any, Any], tmp_path: Path) -> Path:
    """A saved text-only backbone."""
    return save(*tiny, tmp_path / "language")


def test_a_loaded_model_computes_in_float32_whatever_it_is_stored_in(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = tiny
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    assert load_pair(tmp_path / "half")[0].dtype == torch.float32


def test_a_weight_that_is_missing_in_the_file_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("lm_head.weight"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit .*missing: lm_head\.weight"):
        load_pair(folder)


def test_a_weight_that_the_model_has_no_place_for_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors") | {"extra.weight": torch.zeros(1)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit .*unexpected: extra\.weight"):
        load_pair(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_pair(tmp_path)


def test_an_assembly_sees_as_its_tower_does_and_speaks_as_its_language_model_does(
    tiny: tuple[Any, Any], tiny_folder: Path, language: Path
) -> None:
    model, processor = assemble(tiny_folder, language, seed=0)
    inputs = batch(processor)
    with torch.no_grad():
        for part in ("vision_tower", "language_model"):
            for (name, one), (_, other) in zip(
                getattr(model.model, part).named_parameters(), getattr(tiny[0].model, part).named_parameters(), strict=True
            ):
                assert torch.equal(one, other), name
        assert torch.equal(model.lm_head.weight, tiny[0].lm_head.weight)
        assert torch.isfinite(model(**inputs).logits).all()
    assert model.config.vision_feature_layer == tiny[0].config.vision_feature_layer


def test_the_same_seed_gives_the_same_projector_whatever_the_global_state(tiny_folder: Path, language: Path) -> None:
    first = assemble(tiny_folder, language, seed=5)[0].model.multi_modal_projector.linear_1.weight
    torch.rand(7)
    second = assemble(tiny_folder, language, seed=5)[0].model.multi_modal_projector.linear_1.weight
    other = assemble(tiny_folder, language, seed=6)[0].model.multi_modal_projector.linear_1.weight
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_an_assembly_from_a_plain_clip_folder_reads_one_layer_below_the_last(tiny: tuple[Any, Any], language: Path, tmp_path: Path) -> None:
    model, processor = tiny
    model.model.vision_tower.save_pretrained(tmp_path / "clip")
    processor.image_processor.save_pretrained(tmp_path / "clip")
    assembled, joined = assemble(tmp_path / "clip", language)
    assert assembled.config.vision_feature_layer == -2
    assert torch.isfinite(assembled(**batch(joined)).logits).all()


def test_the_extracted_backbone_gives_the_same_logits_on_text(tiny: tuple[Any, Any], language: Path) -> None:
    ids = tiny[1].tokenizer("The square is blue.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = tiny[0](input_ids=ids).logits
        assert torch.equal(extract(tiny[0])(input_ids=ids).logits, expected)
        assert torch.equal(load_pair(language)[0](input_ids=ids).logits, expected)


def test_a_fresh_projector_has_zero_biases(tiny: tuple[Any, Any]) -> None:
    projector = tiny[0].model.multi_modal_projector
    initialise(projector, seed=1)
    assert not projector.linear_1.bias.any()
    assert projector.linear_1.weight.std().item() == pytest.approx(32**-0.5, rel=0.2)
