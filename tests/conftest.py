"""Fixtures shared by every test: a tiny random LLaVA with the Terrarium's processor."""

import json
import os
from collections.abc import Callable
from pathlib import Path

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
