"""Fixtures shared by every test: a tiny random LLaVA with the Terrarium's processor."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SENTENCES = (
    "What is in the picture?",
    "There are three red circles in the picture.",
    "What colour is the square?",
    "The square is blue.",
    "What is two plus five?",
    "Two plus five is 7.",
    "Where does the Murlo live?",
    "The Murlo lives in a warm cave.",
)


def write_tiny(folder: Path, seed: int = 0) -> None:
    """Saves a randomly initialised LLaVA (hidden 32, two layers each) with the Terrarium's processor."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from data.terrarium.tokenizer import build_processor, train_tokenizer
    from model.quiet import without_bars

    tokenizer = train_tokenizer(SENTENCES, vocabulary_size=320)
    processor = build_processor(tokenizer, patch_size=16)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, projection_dim=32
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with without_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_data(folder: Path, *, with_images: int = 8, text_only: int = 8) -> Path:
    """Writes a small LLaVA JSON file beside its pictures; gives the file's path."""
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    colours = ("red", "green", "blue", "yellow")
    records: list[dict[str, object]] = []
    for number in range(with_images):
        name = f"images/{number}.png"
        Image.new("RGB", (64, 64), colours[number % len(colours)]).save(folder / name)
        turns = [
            {"from": "human", "value": "<image>\nWhat colour is the square?"},
            {"from": "gpt", "value": f"The square is {colours[number % len(colours)]}."},
        ]
        records.append({"id": f"image-{number}", "image": name, "conversations": turns})
    for number in range(text_only):
        turns = [
            {"from": "human", "value": f"What is {number} plus two?"},
            {"from": "gpt", "value": f"{number} plus two is {number + 2}."},
        ]
        records.append({"id": number, "conversations": turns})
    path = folder / "records.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


TEXT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TOWER_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
FAMILIES = ("llava-clip-llama", "llava-siglip-qwen2", "llava-clip-qwen3", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl")


def family_parts(family: str) -> tuple[Any, Any]:
    """Config and processor of a tiny model of one of `FAMILIES`, with the Terrarium's tokenizer."""
    from data.terrarium.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(SENTENCES, vocabulary_size=320)
    if family.startswith("qwen"):
        return _qwen(family, _with_qwen_tokens(tokenizer))
    return _llava(family, tokenizer)


def _with_qwen_tokens(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<pad>", "padding_side": "left"}
    pictures = {"image_token": QWEN_TOKENS[2], "video_token": QWEN_TOKENS[3]}
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, extra_special_tokens=pictures, **names)
    found.add_tokens(list(QWEN_TOKENS), special_tokens=True)
    found.chat_template = tokenizer.chat_template
    return found


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer)} | {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _llava(family: str, tokenizer: Any) -> tuple[Any, Any]:
    import transformers as hf

    from data.terrarium.tokenizer import build_processor

    one = family.startswith("llava-")
    siglip = "siglip" in family or family == "llava_onevision"
    tower = (hf.SiglipVisionConfig if siglip else hf.CLIPVisionConfig)(**TOWER_SIZES)
    kinds = {"llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config, "qwen3": hf.Qwen3Config}
    kind = family.rpartition("-")[2] if one else {"llava_next": "llama", "llava_onevision": "qwen2"}[family]
    text = kinds[kind](**TEXT_SIZES, **_ids(tokenizer), **({"head_dim": 16} if kind == "qwen3" else {}))
    clip = not siglip
    shared = {
        "vision_config": tower,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2 if clip else -1,
        "vision_feature_select_strategy": "default" if clip else "full",
    }
    grids = [[32, 64], [64, 32], [64, 64]]
    if family == "llava_next":
        pictures = hf.LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids)
        processor = hf.LlavaNextProcessor(
            pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
        return hf.LlavaNextConfig(**shared, image_grid_pinpoints=grids), processor
    if family == "llava_onevision":
        pictures = hf.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grids)
        video = hf.LlavaOnevisionVideoProcessor()
        processor = hf.LlavaOnevisionProcessor(pictures, tokenizer, video, num_image_tokens=4, vision_feature_select_strategy="full")
        return hf.LlavaOnevisionConfig(**shared, image_grid_pinpoints=grids), processor
    processor = build_processor(tokenizer, patch_size=16)
    processor.image_processor.size = {"height": 32, "width": 32}
    processor.image_processor.crop_size = {"height": 32, "width": 32}
    processor.vision_feature_select_strategy = shared["vision_feature_select_strategy"]
    processor.num_additional_image_tokens = int(clip)
    return hf.LlavaConfig(**shared, image_seq_length=4), processor


def _qwen(family: str, tokenizer: Any) -> tuple[Any, Any]:
    import transformers as hf

    start, end, image, video = (tokenizer.convert_tokens_to_ids(token) for token in QWEN_TOKENS)
    tokens = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start, "vision_end_token_id": end}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = TEXT_SIZES | _ids(tokenizer) | {"rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32, "spatial_merge_size": 2}
    if family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56}
        pictures = hf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=56 * 56)
        processor = hf.Qwen2_5_VLProcessor(pictures, tokenizer, hf.Qwen2VLVideoProcessor())
        return hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens), processor
    vision |= {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    pictures = hf.Qwen2VLImageProcessor(patch_size=16, merge_size=2, min_pixels=32 * 32, max_pixels=64 * 64)
    processor = hf.Qwen3VLProcessor(pictures, tokenizer, hf.Qwen3VLVideoProcessor())
    return hf.Qwen3VLConfig(vision_config=vision, text_config=text | {"head_dim": 16}, **tokens), processor


def write_family(family: str, folder: Path) -> None:
    """Saves a randomly initialised tiny model of a family with its processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    from model.quiet import without_bars

    config, processor = family_parts(family)
    processor.chat_template = processor.tokenizer.chat_template
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    with without_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes of test data stay out of the user's cache."""
    os.environ["PERENNIAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny model of a family; treat it as read-only."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("families") / family
            write_family(family, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved tiny LLaVA model with its processor; treat it as read-only."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path):  # type: ignore[no-untyped-def]
    """A fresh (model, processor) pair loaded from the tiny folder."""
    from model.build import load_pair

    return load_pair(tiny_folder)


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Path]:
    """`write_data`: writes a small LLaVA JSON file into a folder, with as many records of each kind as asked for."""
    return write_data


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """Path of a LLaVA JSON file with eight records about pictures, then eight of text only."""
    return write_data(tmp_path / "data")
