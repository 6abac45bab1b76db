"""Well-known architectures by name, from their published configurations, without weights."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,  # of 27: LLaVA-OneVision's checkpoints hold no layer above the one that is read
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_LLAMA_2_7B = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
_LLAMA_3_8B = _LLAMA_2_7B | {"vocab_size": 128320, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 8192}
_QWEN_2_7B = {
    "vocab_size": 152000,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
_QWEN_3_8B = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}


def _llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(vision_config=CLIPVisionConfig(**_CLIP_L_336), text_config=LlamaConfig(**_LLAMA_2_7B), vision_feature_layer=-2)


def _llava_next() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    return LlavaNextConfig(vision_config=CLIPVisionConfig(**_CLIP_L_336), text_config=LlamaConfig(**_LLAMA_3_8B), vision_feature_layer=-2)


def _llava_onevision() -> Any:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision, text = SiglipVisionConfig(**_SIGLIP_SO400M_384), Qwen2Config(**_QWEN_2_7B)
    return LlavaOnevisionConfig(vision_config=vision, text_config=text, vision_feature_layer=-1, vision_feature_select_strategy="full")


def _qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584, "patch_size": 14}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=_QWEN_2_7B | {"vocab_size": 152064})


def _qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig

    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096, "patch_size": 16}
    return Qwen3VLConfig(
        vision_config=vision | {"deepstack_visual_indexes": [8, 16, 24]}, text_config=_QWEN_3_8B, tie_word_embeddings=False
    )


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llava-1.5-7b": _llava,
    "llava-next-llama3-8b": _llava_next,
    "llava-onevision-qwen2-7b": _llava_onevision,
    "qwen2.5-vl-7b": _qwen2_5_vl,
    "qwen3-vl-8b": _qwen3_vl,
}
HUB = {
    "llava-hf/llava-1.5-7b-hf": "llava-1.5-7b",
    "llava-hf/llama3-llava-next-8b-hf": "llava-next-llama3-8b",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "llava-onevision-qwen2-7b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2.5-vl-7b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3-vl-8b",
}
"""Names on the hub -> architectures."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One half of an assembly on the hub.

    Attributes:
        kind: transformers' model type.
        sizes: Its config.
        tokens: Length of a language model's tokenizer, which may be less than its vocabulary; 0 for a tower.
    """

    kind: str
    sizes: dict[str, Any]
    tokens: int = 0

    def config(self) -> Any:
        """Its transformers config."""
        from transformers import AutoConfig

        return AutoConfig.for_model(self.kind, **self.sizes)


PARTS = {
    "openai/clip-vit-large-patch14-336": Part(kind="clip_vision_model", sizes=_CLIP_L_336),
    "google/siglip-so400m-patch14-384": Part(
        kind="siglip_vision_model", sizes=_SIGLIP_SO400M_384 | {"num_hidden_layers": 27, "vision_use_head": True}
    ),
    "lmsys/vicuna-7b-v1.5": Part(kind="llama", sizes=_LLAMA_2_7B | {"vocab_size": 32000}, tokens=32000),
    "meta-llama/Llama-2-7b-chat-hf": Part(kind="llama", sizes=_LLAMA_2_7B | {"vocab_size": 32000}, tokens=32000),
    "meta-llama/Meta-Llama-3-8B-Instruct": Part(kind="llama", sizes=_LLAMA_3_8B | {"vocab_size": 128256}, tokens=128256),
    "Qwen/Qwen2-7B-Instruct": Part(kind="qwen2", sizes=_QWEN_2_7B | {"vocab_size": 152064}, tokens=151646),
    "Qwen/Qwen2.5-7B-Instruct": Part(kind="qwen2", sizes=_QWEN_2_7B | {"vocab_size": 152064}, tokens=151665),
    "Qwen/Qwen3-8B": Part(kind="qwen3", sizes=_QWEN_3_8B, tokens=151669),
}
"""Towers and language models on the hub, for assemblies."""


def on_the_hub(name: str) -> Any:
    """The transformers config of a well-known model on the hub, without asking the hub; None for one that is not known here."""
    if name in HUB:
        return ARCHITECTURES[HUB[name]]()
    return PARTS[name].config() if name in PARTS else None


def read_config(model: str | Path) -> Any:
    """The transformers config of a built-in architecture, a model folder or a config.json.

    Raises:
        ValueError: Neither a known name nor a folder or file with a config; the message has the nearest name.
    """
    from transformers import AutoConfig

    if str(model) in ARCHITECTURES:
        return ARCHITECTURES[str(model)]()
    path = Path(model)
    if path.is_file() or (path / "config.json").is_file():
        return AutoConfig.from_pretrained(path)
    near = difflib.get_close_matches(str(model), ARCHITECTURES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{model} is no model folder, config.json or built-in architecture ({', '.join(ARCHITECTURES)}){hint}")


def on_meta(config: Any) -> Any:
    """The model of a config without any numbers: names and shapes alone, whatever its size."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    factory = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(config)
    model.tie_weights()
    return model
