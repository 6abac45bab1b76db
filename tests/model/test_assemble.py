"""Towers and backbones of every kind join, or are refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

from model.build import load
from model.config import ModelConfig

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONES = {"llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config, "qwen3": hf.Qwen3Config}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<e>{% endfor %}"


def assemble(vision: Any, language: Path, **options: Any) -> tuple[Any, Any]:
    return load(ModelConfig.model_validate({"vision": str(vision), "language": str(language)} | options), 0)


def write_backbone(folder: Path, kind: str = "llama", *, template: str | None = TEMPLATE, extra_rows: int = 0, **options: Any) -> Path:
    """A tiny language model whose tokenizer knows no pictures."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["<s>", "<e>", "<u>", "What", "is", "this", "?", "red", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<e>", unk_token="<u>", pad_token="<e>")
    tokenizer.chat_template = template
    if options.pop("ordinary_image_token", False):
        tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    config = BACKBONES[kind](vocab_size=len(tokenizer) + extra_rows, num_key_value_heads=2, **SIZES, **options)
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_tower(folder: Path, kind: str = "clip", *, size: int = 32) -> Path:
    torch.manual_seed(4)
    config, model = {"clip": (hf.CLIPVisionConfig, hf.CLIPVisionModel), "siglip": (hf.SiglipVisionConfig, hf.SiglipVisionModel)}[kind]
    model(config(**SIZES, image_size=size, patch_size=8)).save_pretrained(folder)
    side = {"height": size, "width": size}
    {"clip": hf.CLIPImageProcessor, "siglip": hf.SiglipImageProcessor}[kind](size=side, crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("parts"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = (write_backbone if kind in BACKBONES else write_tower)(root / kind, kind)
        return made[kind]

    return folder


def picture(processor: Any) -> dict[str, torch.Tensor]:
    return dict(processor(text="What is <image> this ?", images=[Image.linear_gradient("L").convert("RGB")], return_tensors="pt"))


@pytest.mark.parametrize("vision", ["clip", "siglip"])
@pytest.mark.parametrize("language", list(BACKBONES))
def test_plain_transformers_loads_what_was_assembled_and_answers_alike(
    folders: Callable[[str], Path], tmp_path: Path, vision: str, language: str
) -> None:
    model, processor = assemble(folders(vision), folders(language))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval(), hf.AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**picture(its)).logits, model(**picture(processor)).logits)
    assert its.tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize("vision", ["clip", "siglip"])
def test_the_number_of_image_tokens_is_the_number_of_features(folders: Callable[[str], Path], vision: str) -> None:
    from data.pictures import pictures_of

    model, processor = assemble(folders(vision), folders("llama"))
    inputs = picture(processor)
    with torch.no_grad():
        features = torch.cat(list(model.model.get_image_features(inputs["pixel_values"]).pooler_output))
    tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert tokens == len(features) == pictures_of(processor).fixed == model.config.image_seq_length == 16


@pytest.mark.parametrize("extra_rows", [0, 5])
def test_a_fresh_image_token_starts_as_the_mean_of_the_others_and_padded_tables_keep_their_length(
    folders: Callable[[str], Path], tmp_path: Path, extra_rows: int
) -> None:
    plain = hf.AutoModelForCausalLM.from_pretrained(write_backbone(tmp_path / "text", extra_rows=extra_rows))
    model, processor = assemble(folders("clip"), tmp_path / "text")
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.image_token_id == token == 16
    for ours, theirs in ((model.get_input_embeddings(), plain.get_input_embeddings()), (model.lm_head, plain.lm_head)):
        assert len(ours.weight) == max(17, len(theirs.weight))
        assert torch.equal(ours.weight[:16], theirs.weight[:16])
        assert torch.allclose(ours.weight[token], theirs.weight[:16].mean(dim=0))


def test_tied_embeddings_stay_tied(folders: Callable[[str], Path], tmp_path: Path) -> None:
    model, _ = assemble(folders("clip"), write_backbone(tmp_path / "text", "qwen2", tie_word_embeddings=True))
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_tower_of_another_size_sees_the_same_where_its_grid_is_the_same(folders: Callable[[str], Path]) -> None:
    small, large = (assemble(folders("clip"), folders("llama"), image_size=size)[0] for size in (None, 64))
    tables = [model.model.vision_tower.embeddings.position_embedding.weight for model in (small, large)]
    assert [len(table) for table in tables] == [17, 65]
    assert torch.equal(tables[0][0], tables[1][0])  # the class token has no place in the grid
    middle = tables[1][1:].reshape(8, 8, -1).permute(2, 0, 1)[None]
    back = torch.nn.functional.interpolate(middle, size=(4, 4), mode="bicubic", antialias=True)[0].flatten(1).T
    assert torch.nn.functional.cosine_similarity(back, tables[0][1:]).min() > 0.9


def test_a_resized_tower_reads_pictures_of_its_new_size_after_loading(folders: Callable[[str], Path], tmp_path: Path) -> None:
    model, processor = assemble(folders("siglip"), folders("llama"), image_size=48)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = picture(hf.AutoProcessor.from_pretrained(tmp_path))
    assert inputs["pixel_values"].shape[-2:] == (48, 48)
    with torch.no_grad():
        assert torch.equal(hf.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()(**inputs).logits, model(**inputs).logits)


def test_layer_and_strategy_are_the_recipes(folders: Callable[[str], Path]) -> None:
    model, processor = assemble(folders("clip"), folders("llama"), vision_feature_layer=-1, vision_feature_select_strategy="full")
    assert (model.config.vision_feature_layer, model.config.vision_feature_select_strategy) == (-1, "full")
    assert int((picture(processor)["input_ids"] == model.config.image_token_id).sum()) == 17


def test_a_projector_of_a_stage_one_run_is_taken_over(folders: Callable[[str], Path], tmp_path: Path) -> None:
    first, processor = load(ModelConfig(vision=str(folders("clip")), language=str(folders("llama"))), 7)
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    second, _ = assemble(folders("clip"), folders("llama"), projector=str(tmp_path))
    pairs = zip(first.model.multi_modal_projector.parameters(), second.model.multi_modal_projector.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def siglip2(folder: Path) -> Path:
    hf.Siglip2VisionConfig(**SIZES, patch_size=8, num_patches=16).save_pretrained(folder)
    return folder


def wrong_processor(folder: Path) -> Path:
    write_tower(folder)
    hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        (siglip2, {}, r"is a siglip2_vision_model, which an assembly cannot take .*SigLIP 2 of fixed size"),
        (wrong_processor, {}, r"makes 40 x 40 pixels, its tower takes 32 x 32"),
        (write_tower, {"image_size": 44}, r"44 is no multiple of the tower's patches of 8 pixels; give 40 or 48"),
        (write_tower, {"vision_feature_layer": -4}, r"got -4, but the tower has 2 layers; give -3 to 2"),
        (write_tower, {"preset": "sa_proj[4:6]"}, r"holds no layer; the model has 2"),
        (lambda folder: "open_clip:ViT-B-32", {}, r"names no weights; write open_clip:ViT-B-32:TAG"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_reason(
    folders: Callable[[str], Path], tmp_path: Path, vision: Callable[[Path], Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(vision(tmp_path / "tower"), folders("llama"), **options)


def test_default_strategy_on_a_tower_without_class_token_is_refused(folders: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="this tower has none; give full"):
        assemble(folders("siglip"), folders("llama"), vision_feature_select_strategy="default")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": None}, r"has no chat template; name a file with one in model\.chat_template"),
        ({"ordinary_image_token": True}, r"has <image> as an ordinary token"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_refused(
    folders: Callable[[str], Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(folders("clip"), write_backbone(tmp_path / "text", **options))


def test_a_missing_chat_template_can_be_given(folders: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    text = write_backbone(tmp_path / "text", template=None)
    assert assemble(folders("clip"), text, chat_template=str(tmp_path / "chat.jinja"))[1].chat_template == TEMPLATE


def test_a_preset_that_does_not_fit_is_found_before_any_weight_is_read(tmp_path: Path, tiny_folder: Path) -> None:
    for file in tiny_folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_text(file.read_text())
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["text_config"]["num_hidden_layers"] == 2
    with pytest.raises(ValueError, match=r"'sa_proj\[7\]' holds no layer"):  # there are no weights in the folder
        load(ModelConfig(base=str(tmp_path), preset="sa_proj[7]"), 0)


def test_an_open_clip_tower_in_an_assembly_writes_the_same_tokens_in_plain_transformers(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    model, processor = assemble("open_clip:ViT-B-32-quickgelu:random", folders("qwen2"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval(), hf.AutoProcessor.from_pretrained(tmp_path)
    tokens = [one.generate(**picture(with_), max_new_tokens=8, do_sample=False) for one, with_ in ((model, processor), (again, its))]
    assert torch.equal(*tokens)
    assert tokens[0].shape[1] > picture(processor)["input_ids"].shape[1]
