"""Writes the model and the records that scripts/bench/training.py compares products on.

    python scripts/bench/peers/material.py FOLDER --records 24

A LLaVA of the shape that the field uses: CLIP tower, two-layer projector, Qwen2 backbone with tied embeddings; about 32 million
parameters, a vocabulary of 32,000. The records are drawn like those of LLaVA-665k at a ninth of their length: 94 % with a picture (64
tokens instead of 576), 102 tokens on average, a fifth of the tokens in answers. Words are nonsense that a byte-level BPE vocabulary was
trained on.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 32_000
IMAGE_TOKENS = 64
SHRINK = 9  # LLaVA's 576 tokens of a picture are 64 here
LONGEST = 240  # tokens of a record
ANSWERS = 0.24  # of a record's tokens, where they fit; a fifth of all tokens
TEXT_ONLY = 0.06  # share of the records
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
LANGUAGE = {
    "hidden_size": 320,
    "intermediate_size": 960,
    "num_hidden_layers": 16,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4, "projection_dim": 128}
PICTURE, PATCH = 112, 14  # pixels a side
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}{{- '<image>' if part['type'] == 'image' else part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def main() -> int:
    """Writes FOLDER/model, FOLDER/llava.json, FOLDER/pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, required=True)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    words = lexicon(draw)
    tokenizer = train_tokenizer(words, draw)
    write_model(tokenizer, options.folder / "model")
    records = write_records(tokenizer, words, options.folder, options.records, draw)
    (options.folder / "llava.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0


def lexicon(draw: np.random.Generator) -> list[str]:
    """24,000 pronounceable words of nonsense."""
    syllables = [first + vowel + last for first in "bdfgklmnprstvz" for vowel in "aeiou" for last in ("", "l", "n", "r", "s")]
    words = {"".join(draw.choice(syllables, size=draw.integers(2, 4))) for _ in range(40_000)}
    return sorted(words)[:24_000]


def train_tokenizer(words: list[str], draw: np.random.Generator) -> Any:
    """A byte-level BPE tokenizer with a ChatML template; whole words are tokens for the most part."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=1, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" " + " ".join(draw.permutation(words).tolist()) for _ in range(2)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right",
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]}, replace_extra_special_tokens=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_model(tokenizer: Any, folder: Path) -> None:
    """The model at random weights, with its processor, in transformers' format."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2Config

    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=PICTURE, patch_size=PATCH, **VISION),
        text_config=Qwen2Config(**LANGUAGE, **ids),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    for name, value in ids.items():
        setattr(model.generation_config, name, value)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": PICTURE}, crop_size={"height": PICTURE, "width": PICTURE}),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_records(tokenizer: Any, words: list[str], folder: Path, count: int, draw: np.random.Generator) -> list[dict[str, Any]]:
    """Records in LLaVA's format, with their pictures on disk; their lengths are quantiles, so that few stand for many."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    texts = draw.permutation(count) < max(1, round(TEXT_ONLY * count))
    ranks = (draw.permutation(count) + 0.5) / count
    spread = np.sort(draw.lognormal(0.0, 0.7, 100_001))
    records: list[dict[str, Any]] = []
    for number, (text_only, rank) in enumerate(zip(texts, ranks, strict=True)):
        factor = spread[int(rank * 100_000)]
        own = int(np.clip((500 if text_only else 238) * factor / SHRINK, 12, LONGEST - IMAGE_TOKENS))
        total = own if text_only else own + IMAGE_TOKENS
        answer = int(np.clip(ANSWERS * total, 3, own - 9))
        turns = [
            {"from": "human", "value": ("" if text_only else "<image>\n") + sentence(tokenizer, words, own - answer - 8, draw)},
            {"from": "gpt", "value": sentence(tokenizer, words, answer, draw)},
        ]
        record: dict[str, Any] = {"id": f"record-{number}", "conversations": turns}
        if not text_only:
            record["image"] = f"pictures/{number}.jpg"
            picture(folder / record["image"], draw)
        records.append(record)
    return records


def sentence(tokenizer: Any, words: list[str], tokens: int, draw: np.random.Generator) -> str:
    """Words that come to about so many tokens, at least one."""
    ids: list[int] = []
    while len(ids) < max(1, tokens):
        ids += tokenizer.encode(" " + words[int(draw.integers(len(words)))], add_special_tokens=False)
    return tokenizer.decode(ids[: max(1, tokens)]).strip()


def picture(path: Path, draw: np.random.Generator) -> None:
    """A JPEG of 320 x 240 pixels: smooth noise, which compresses as photographs do."""
    from PIL import Image

    noise = Image.fromarray(draw.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    noise.resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=90)


if __name__ == "__main__":
    sys.exit(main())
