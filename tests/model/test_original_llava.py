"""Importing checkpoints of the original LLaVA repository, against a forward pass written out here."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from data.chat import encode
from data.conversation import Conversation, Turn
from data.images import ImageSource
from data.pictures import pictures_of
from data.terrarium.tokenizer import train_tokenizer
from model.build import load_pair
from model.original_llava import import_checkpoint, load_projector
from model.quiet import without_bars

SIDE, PATCH, WIDTH = 32, 8, 32  # pixels, pixels, hidden units of the language model
PATCHES = (SIDE // PATCH) ** 2
TOWER = "model.vision_tower.vision_tower.vision_model."
OPENAI = "openai/clip-vit-large-patch14-336"
PROMPT = "<s>USER: <image>\nWhat colour is the square? ASSISTANT:"
SENTENCES = ["What colour is the square?", "The square is red.", "What is two plus five?", "Two plus five is 7."]
VISION: dict[str, Any] = {
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
# Away from the classes' defaults wherever a config that got lost would change the logits.
LANGUAGE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
THETA = 500.0
NEXT = {"mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres", "image_grid_pinpoints": [[2 * SIDE, SIDE]]}
FORMS = ("pytorch_model.bin", "shards of pytorch_model.bin", "model.safetensors", "shards of model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The modules of an original model."""

    language: Any
    tower: Any
    projector: nn.Sequential
    newline: torch.Tensor

    def tensors(self, *, inside: bool = False, newline: bool = False) -> dict[str, torch.Tensor]:
        """What the original saves."""
        found = {name: tensor for name, tensor in self.language.state_dict().items() if name != "lm_head.weight" or not self.tied}
        found |= {f"model.mm_projector.{name}": tensor for name, tensor in self.projector.state_dict().items()}
        if inside:
            found |= {TOWER + name.removeprefix("vision_model."): tensor for name, tensor in self.tower.state_dict().items()}
        return found | ({"model.image_newline": self.newline} if newline else {})

    @property
    def tied(self) -> bool:
        return bool(self.language.config.tie_word_embeddings)


def build(kind: str = "llama", tower: Any = None, seed: int = 0) -> Parts:
    configs: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
        "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
        "qwen": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    }
    config, model, more = configs[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rope = {"rope_type": "default", "rope_theta": THETA}
        language = model(config(vocab_size=len(plain_tokenizer()), rope_parameters=rope, **LANGUAGE, **more)).eval()
        tower = tower or CLIPVisionModel(CLIPVisionConfig(hidden_size=128, initializer_factor=5.0, **VISION))
        projector = nn.Sequential(nn.Linear(tower.config.hidden_size, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        return Parts(language=language, tower=tower.eval(), projector=projector, newline=torch.randn(WIDTH))


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """The Terrarium's tokenizer without what the original's does not have: `<image>` and a chat template."""
    from tokenizers import Tokenizer

    data = json.loads(train_tokenizer(SENTENCES, vocabulary_size=280).backend_tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<image>"]
    data["model"]["vocab"]["<other>"] = data["model"]["vocab"].pop("<image>")
    backend = Tokenizer.from_str(json.dumps(data))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>")


def write_original(folder: Path, parts: Parts, tensors: dict[str, torch.Tensor], form: str = FORMS[0], **changes: Any) -> Path:
    """Writes config, tokenizer and weights as the original repository lays them out."""
    folder.mkdir()
    kind = parts.language.config.model_type
    config = LANGUAGE | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": {"llama": "llava_llama", "mistral": "llava_mistral", "qwen2": "llava_qwen"}[kind],
        "vocab_size": parts.language.config.vocab_size,
        "rope_theta": THETA,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": parts.tied,
        "mm_vision_tower": OPENAI,
        "mm_hidden_size": parts.tower.config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    plain_tokenizer().save_pretrained(folder)
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    whole = form.removeprefix("shards of ")
    stem, _, ending = whole.partition(".")
    names = sorted(tensors)
    shards = {whole: names} if form == whole else {f"{stem}-0000{part + 1}-of-00002.{ending}": names[part::2] for part in range(2)}
    for file, held in shards.items():
        part = {name: tensors[name] for name in held}
        save_file(part, folder / file) if ending == "safetensors" else torch.save(part, folder / file)
    if form != whole:
        places = {name: file for file, held in shards.items() for name in held}
        (folder / f"{whole}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def write_vision(folder: Path, tower: Any, processor: Any = None) -> Path:
    square = {"height": SIDE, "width": SIDE}
    with without_bars():
        tower.save_pretrained(folder)
    (processor or CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)).save_pretrained(folder)
    return folder


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def features(parts: Parts, pixels: torch.Tensor, *, layers: int = -1, first: int = 1) -> torch.Tensor:
    """What the language model sees of pictures [pictures, 3, side, side]: [pictures, patches, width]."""
    hidden = parts.tower.embeddings(pixels)
    if hasattr(parts.tower, "pre_layrnorm"):
        hidden = parts.tower.pre_layrnorm(hidden)
    for layer in parts.tower.encoder.layers[:layers]:
        hidden = layer(hidden, attention_mask=None)
    return parts.projector(hidden[:, first:])


def reference(parts: Parts, ids: list[int], image_id: int, seen: torch.Tensor) -> torch.Tensor:
    """The original's logits for a prompt with one picture: its features stand where the placeholder stood."""
    at = ids.index(image_id)
    before, after = ids[:at], [token for token in ids[at:] if token != image_id]
    embed = parts.language.get_input_embeddings()
    rows = torch.cat([embed(torch.tensor(before)), seen, embed(torch.tensor(after))])
    return parts.language(inputs_embeds=rows[None]).logits


@torch.no_grad()
def compare(parts: Parts, folder: Path, see: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int] = (48, 30)) -> None:
    """Compares the logits of a folder, read by plain transformers, with the reference."""
    with without_bars():
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoProcessor.from_pretrained(folder)(text=PROMPT, images=picture(*size), return_tensors="pt")
    expected = reference(parts, inputs["input_ids"][0].tolist(), model.config.image_token_id, see(inputs["pixel_values"]))
    torch.testing.assert_close(model(**inputs).logits[..., : expected.shape[-1]], expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return build()


@pytest.fixture(scope="module")
def vision(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tower alone, as transformers saves it."""
    return write_vision(tmp_path_factory.mktemp("vision") / "clip", parts.tower)


@pytest.fixture(scope="module")
def imported(parts: Parts, vision: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported LLaVA-1.5; treat it as read-only."""
    folder = tmp_path_factory.mktemp("imported")
    return import_checkpoint(write_original(folder / "original", parts, parts.tensors()), folder / "native", vision=vision)


@pytest.mark.parametrize("form", FORMS)
def test_llava_1_5_gives_the_originals_logits_however_its_weights_are_stored(form: str, parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(), form)
    folder = import_checkpoint(source, tmp_path / "native", vision=vision)
    compare(parts, folder, lambda pixels: features(parts, pixels)[0])


@pytest.mark.parametrize("wrong", [{"layers": None}, {"layers": -2}, {"first": 0}], ids=["last layer", "third last layer", "class token"])
def test_the_comparison_notices_another_reading_of_the_tower(wrong: dict[str, Any], parts: Parts, imported: Path) -> None:
    with pytest.raises(AssertionError):
        compare(parts, imported, lambda pixels: features(parts, pixels, **wrong)[0, :PATCHES])


def test_a_tower_inside_the_checkpoint_needs_no_vision_folder(parts: Parts, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(inside=True))
    compare(parts, import_checkpoint(source, tmp_path / "native"), lambda pixels: features(parts, pixels)[0])


def test_a_tower_inside_the_checkpoint_goes_before_the_one_in_the_vision_folder(parts: Parts, tmp_path: Path) -> None:
    other = write_vision(tmp_path / "clip", build(seed=1).tower)
    source = write_original(tmp_path / "original", parts, parts.tensors(inside=True))
    compare(parts, import_checkpoint(source, tmp_path / "native", vision=other), lambda pixels: features(parts, pixels)[0])


def test_a_whole_clip_serves_as_the_vision_folder(parts: Parts, tmp_path: Path) -> None:
    text = CLIPTextConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=parts.tower.config.to_dict(), projection_dim=16))
    whole.vision_model.load_state_dict(parts.tower.state_dict())
    source = write_original(tmp_path / "original", parts, parts.tensors())
    folder = import_checkpoint(source, tmp_path / "native", vision=write_vision(tmp_path / "clip", whole))
    compare(parts, folder, lambda pixels: features(parts, pixels)[0])


def test_cls_patch_keeps_the_class_token(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(), mm_vision_select_feature="cls_patch")
    compare(parts, import_checkpoint(source, tmp_path / "native", vision=vision), lambda pixels: features(parts, pixels, first=0)[0])


@pytest.fixture(scope="module")
def next_parts() -> Parts:
    return build("mistral")


@pytest.fixture(scope="module")
def next_folder(next_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported LLaVA-NeXT on Mistral, whose only grid is two tiles wide; treat it as read-only."""
    folder = tmp_path_factory.mktemp("next")
    source = write_original(folder / "original", next_parts, next_parts.tensors(inside=True, newline=True), FORMS[3], **NEXT)
    with pytest.warns(UserWarning, match="has no chat template, and the original's for mistral is not known"):
        return import_checkpoint(source, folder / "native")


def test_llava_next_gives_the_originals_logits_on_a_picture_two_tiles_wide(next_parts: Parts, next_folder: Path) -> None:
    def see(pixels: torch.Tensor) -> torch.Tensor:
        whole, left, right = features(next_parts, pixels[0])
        rows = torch.cat([tile.reshape(SIDE // PATCH, SIDE // PATCH, WIDTH) for tile in (left, right)], dim=1)
        ends = next_parts.newline.expand(SIDE // PATCH, 1, WIDTH)
        return torch.cat([whole, torch.cat([rows, ends], dim=1).flatten(0, 1)])

    compare(next_parts, next_folder, see, size=(2 * SIDE, SIDE))


def test_tiles_of_llava_next_are_cut_as_wide_as_the_originals_grid_says(next_folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(next_folder).image_processor
    image = picture(2 * SIDE, SIDE)
    mean, deviation = np.array(processor.image_mean), np.array(processor.image_std)
    right = (np.asarray(image)[:, SIDE:] / 255 - mean) / deviation
    np.testing.assert_allclose(processor(image, return_tensors="np")["pixel_values"][0, 2], right.transpose(2, 0, 1), atol=1e-5)


def test_an_imported_llava_next_generates(next_folder: Path) -> None:
    model, processor = load_pair(next_folder)
    inputs = processor(text=PROMPT, images=picture(50, 20), return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_a_null_in_the_config_is_not_replaced_by_the_classes_default(next_folder: Path) -> None:
    assert json.loads((next_folder / "config.json").read_text())["text_config"]["sliding_window"] is None


def test_a_cut_siglip_and_a_tied_head_give_the_originals_logits(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        siglip = SiglipVisionModel(SiglipVisionConfig(hidden_size=64, **VISION))
    parts = build("qwen", siglip)
    vision = write_vision(tmp_path / "siglip", siglip, SiglipImageProcessor(size={"height": SIDE, "width": SIDE}))
    cut = (f"{TOWER}encoder.layers.2.", f"{TOWER}head.")
    tensors = {name: tensor for name, tensor in parts.tensors(inside=True).items() if not name.startswith(cut)}
    source = write_original(tmp_path / "original", parts, tensors, mm_vision_tower="google/siglip-so400m-patch14-384")
    with pytest.warns(UserWarning, match="has no chat template"):
        folder = import_checkpoint(source, tmp_path / "native", vision=vision)
    compare(parts, folder, lambda pixels: features(parts, pixels, first=0)[0])


def test_everything_is_written_in_the_dtype_of_the_language_model(parts: Parts, vision: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in parts.tensors().items()}
    folder = import_checkpoint(write_original(tmp_path / "original", parts, half), tmp_path / "native", vision=vision)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_plain_transformers_misses_nothing_in_an_imported_folder(imported: Path) -> None:
    with without_bars():
        _, info = AutoModelForImageTextToText.from_pretrained(imported, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_buffers_that_old_releases_saved_are_left_out(parts: Parts, vision: Path, tmp_path: Path) -> None:
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    source = write_original(tmp_path / "original", parts, parts.tensors() | buffers)
    assert import_checkpoint(source, tmp_path / "native", vision=vision).is_dir()


def test_the_image_token_gets_one_row_which_is_the_mean_of_the_others(parts: Parts, imported: Path) -> None:
    model, processor = load_pair(imported)
    old = parts.language.get_input_embeddings().weight
    torch.testing.assert_close(model.get_input_embeddings().weight, torch.cat([old, old.mean(0, keepdim=True)]))
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == len(old)


def test_an_image_token_that_is_an_ordinary_entry_becomes_special_and_keeps_its_id(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(text.replace("<other>", "<image>"))
    model, processor = load_pair(import_checkpoint(source, tmp_path / "native", vision=vision))
    ids = processor.tokenizer("a<image>b")["input_ids"]
    assert ids[1] == model.config.image_token_id < parts.language.config.vocab_size == model.get_input_embeddings().num_embeddings


def test_generation_stops_at_the_tokens_of_the_originals_generation_config(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, "temperature": 0.9, "top_p": 0.6}))
    assert load_pair(import_checkpoint(source, tmp_path / "native", vision=vision))[0].generation_config.eos_token_id == 5


def test_a_llama_without_a_template_speaks_as_vicuna(imported: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(imported).tokenizer
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "One?"}, {"type": "image"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Two?"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<s>A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
        "answers to the human's questions. USER: <image>\nOne? ASSISTANT: Yes.<|end|>USER: Two? ASSISTANT:"
    )


def test_the_loss_mask_of_the_vicuna_template_covers_the_answers_and_what_ends_them(imported: Path) -> None:
    processor = AutoProcessor.from_pretrained(imported)
    texts = ("<image>\nWhat colour?", "Red.", "And two plus five?", "7.")
    turns = tuple(Turn(role=("user", "assistant")[at % 2], text=text) for at, text in enumerate(texts))
    encoded = encode(
        Conversation(id="0", turns=turns, images=(ImageSource("a.png"),)), processor.tokenizer, pictures=pictures_of(processor)
    )
    assert processor.decode(encoded.input_ids[encoded.labels_mask]) == " Red.<|end|> 7.<|end|>"


def test_the_data_layer_counts_as_many_image_tokens_as_the_tower_has_patches(imported: Path) -> None:
    assert pictures_of(AutoProcessor.from_pretrained(imported)).fixed == PATCHES


def test_a_tokenizers_own_template_is_kept(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    folder = import_checkpoint(source, tmp_path / "native", vision=vision)
    assert AutoProcessor.from_pretrained(folder).chat_template == "{{ messages[0]['content'] }}"


def test_pictures_are_padded_with_the_mean_colour_where_the_original_pads(imported: Path) -> None:
    processor = AutoProcessor.from_pretrained(imported).image_processor
    pixels = processor(Image.new("RGB", (64, 32), "red"), return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels[:, 0]).max() < 0.02 < np.abs(pixels[:, SIDE // 2]).min()


def test_pictures_are_cut_where_the_original_does_not_pad(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(), image_aspect_ratio=None)
    processor = AutoProcessor.from_pretrained(import_checkpoint(source, tmp_path / "native", vision=vision)).image_processor
    pixels = processor(Image.new("RGB", (64, 32), "red"), return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels).min() > 0.02


def test_means_and_deviations_come_from_the_vision_folder(parts: Parts, tmp_path: Path) -> None:
    square = {"height": SIDE, "width": SIDE}
    own = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square, image_mean=[0.1, 0.2, 0.3])
    source = write_original(tmp_path / "original", parts, parts.tensors())
    folder = import_checkpoint(source, tmp_path / "native", vision=write_vision(tmp_path / "clip", parts.tower, own))
    assert AutoProcessor.from_pretrained(folder).image_processor.image_mean == (0.1, 0.2, 0.3)


def test_a_checkpoint_without_a_tower_names_the_one_it_needs(parts: Parts, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    with pytest.raises(ValueError, match=f"holds no vision tower; it was trained with {OPENAI}: give that model's folder as `vision`"):
        import_checkpoint(source, tmp_path / "native")


def test_a_tower_of_unknown_settings_inside_the_checkpoint_is_asked_for(parts: Parts, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(inside=True), mm_vision_tower="somebody/eva")
    with pytest.raises(ValueError, match="no settings for its vision tower.*trained with somebody/eva"):
        import_checkpoint(source, tmp_path / "native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), r"missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda tensors: tensors.update({"model.extra": torch.ones(1)}), r"unexpected: model\.extra"),
        (lambda tensors: tensors.update({"model.image_newline": torch.ones(1)}), r"unexpected: model\.image_newline"),
        (
            lambda tensors: tensors.update({"model.mm_projector.2.bias": torch.ones(5)}),
            rf"wrong shape: model\.mm_projector\.2\.bias \[5\], expected \[{WIDTH}\]",
        ),
        (lambda tensors: tensors.update({"model.norm.weight": torch.full((WIDTH,), torch.nan)}), r"not finite: model\.norm\.weight"),
        (lambda tensors: tensors.update({"model.embed_tokens.weight": torch.ones(7, WIDTH)}), "7 rows, but vocab_size"),
    ],
    ids=["missing", "unexpected", "newline of another family", "shape", "not finite", "rows"],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, parts: Parts, vision: Path, tmp_path: Path
) -> None:
    tensors = parts.tensors()
    change(tensors)
    source = write_original(tmp_path / "original", parts, tensors)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(source, tmp_path / "native", vision=vision)
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_a_llava_next_without_its_newline_is_refused(parts: Parts, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(inside=True), **NEXT)
    with pytest.raises(ValueError, match=r"missing: model\.image_newline"):
        import_checkpoint(source, tmp_path / "native")


def test_a_head_of_its_own_under_a_config_that_ties_it_is_refused(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(), tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but lm_head\.weight is not model\.embed_tokens\.weight"):
        import_checkpoint(source, tmp_path / "native", vision=vision)


def test_a_checkpoint_without_a_tokenizer_is_refused(parts: Parts, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    (source / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        import_checkpoint(source, tmp_path / "native")


def test_a_missing_shard_is_named(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors(), FORMS[1])
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="names files that are not there: pytorch_model-00002-of-00002.bin"):
        import_checkpoint(source, tmp_path / "native", vision=vision)


def test_a_folder_without_weights_says_what_is_missing(parts: Parts, vision: Path, tmp_path: Path) -> None:
    source = write_original(tmp_path / "original", parts, parts.tensors())
    (source / "pytorch_model.bin").rename(source / "mm_projector.bin")
    with pytest.raises(FileNotFoundError, match="holds neither model.safetensors nor pytorch_model.bin"):
        import_checkpoint(source, tmp_path / "native", vision=vision)


@pytest.mark.parametrize(
    "changes",
    [
        {"mm_projector_type": "identity"},
        {"mm_projector_type": "mlp3x_gelu"},
        {"mm_projector_type": None},
        {"model_type": "llava_mpt"},
        {"mm_use_im_start_end": True},
        {"mm_vision_select_feature": "slicefour_patch"},
        {"mm_vision_select_layer": None},
        {"mm_patch_merge_type": "spatial"},
        {"image_aspect_ratio": "anyres"},
        NEXT | {"image_grid_pinpoints": "(1x1),...,(6x6)"},
        NEXT | {"mm_vision_select_feature": "cls_patch"},
        {"text_config": {}},
    ],
    ids=lambda changes: ", ".join(f"{name} {value}" for name, value in changes.items()),
)
def test_what_the_native_classes_cannot_compute_is_refused_by_name(changes: dict[str, Any], tmp_path: Path) -> None:
    known = {"model_type": "llava", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
    (tmp_path / "config.json").write_text(json.dumps(known | changes))
    with pytest.raises(ValueError, match=r"config\.json.*(not supported|in transformers' format already|must be a whole number)"):
        import_checkpoint(tmp_path, tmp_path / "native")


def test_a_folder_that_holds_something_is_left_alone(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "note").touch()
    with pytest.raises(ValueError, match="is not an empty folder"):
        import_checkpoint(tmp_path / "original", tmp_path / "native")


def fresh(imported: Path) -> nn.Module:
    projector = load_pair(imported)[0].model.multi_modal_projector
    for parameter in projector.parameters():
        nn.init.zeros_(parameter)
    return projector


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
def test_a_projector_of_the_originals_first_stage_is_loaded_whatever_its_prefix(
    prefix: str, parts: Parts, imported: Path, tmp_path: Path
) -> None:
    saved = {f"{prefix}mm_projector.{name}": tensor for name, tensor in parts.projector.state_dict().items()}
    torch.save(saved, tmp_path / "mm_projector.bin")
    projector = fresh(imported)
    load_projector(projector, tmp_path / "mm_projector.bin")
    hidden = torch.randn(3, parts.tower.config.hidden_size)
    torch.testing.assert_close(projector(hidden), parts.projector(hidden))


def test_a_projector_is_loaded_from_the_folder_of_a_whole_model(parts: Parts, imported: Path) -> None:
    projector = fresh(imported)
    load_projector(projector, imported)
    torch.testing.assert_close(projector.linear_2.weight, parts.projector[2].weight)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.mm_projector.weight": torch.ones(WIDTH, 128)}, r"missing: linear_1\.bias.*unexpected: weight"),
        ({"model.embed_tokens.weight": torch.ones(2, WIDTH)}, r"unexpected: model\.embed_tokens\.weight"),
        ({"model.mm_projector.0.bias": torch.ones(3)}, rf"wrong shape: linear_1\.bias \[3\], expected \[{WIDTH}\]"),
    ],
    ids=["one layer", "more than a projector", "shape"],
)
def test_a_projector_that_does_not_fit_is_refused(tensors: dict[str, torch.Tensor], message: str, imported: Path, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match=message):
        load_projector(fresh(imported), tmp_path)


def test_a_projector_file_that_is_not_there_is_named(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mm_projector\.bin does not exist"):
        load_projector(fresh(imported), tmp_path / "mm_projector.bin")
