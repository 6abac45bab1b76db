"""The only way to a (model, processor) pair."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from model.config import ModelConfig
from model.projector import initialise
from model.quiet import without_bars

IMAGE_TOKEN = "<image>"
DEFAULT_FEATURE_LAYER = -2  # LLaVA-1.5's: one layer below the last


def load(config: ModelConfig, seed: int) -> tuple[Any, Any]:
    """Loads or assembles what a recipe's `model` section asks for.

    Args:
        config: The section, with built-in names already turned into folders.
        seed: Draws the projector of an assembly.

    Returns:
        The model in float32 on the CPU, in evaluation mode, and its processor.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: Weights in a folder do not fit the model.
    """
    if config.base is not None:
        return load_pair(config.base, attention=config.attention)
    assert config.vision is not None
    assert config.language is not None
    return assemble(config.vision, config.language, seed, attention=config.attention, vision_feature_layer=config.vision_feature_layer)


def load_pair(folder: str | Path, *, dtype: str = "float32", attention: str = "sdpa") -> tuple[Any, Any]:
    """Loads a saved model and its processor; every weight must be there.

    Args:
        folder: A folder in transformers' own format: LLaVA-style, or a text-only causal model (then the second is its tokenizer).
        dtype: Name of the torch dtype to compute in; weights stored in another one are cast.
        attention: "sdpa", "eager" or "flash_attention_2".
    """
    folder = _folder(folder)
    config = AutoConfig.from_pretrained(folder)
    is_visual = hasattr(config, "vision_config") and hasattr(config, "text_config")
    model = _checked(AutoModelForImageTextToText if is_visual else AutoModelForCausalLM, folder, dtype, attention)
    return model, (AutoProcessor if is_visual else AutoTokenizer).from_pretrained(folder)


def assemble(
    vision: str | Path, language: str | Path, seed: int, *, attention: str = "sdpa", vision_feature_layer: int | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Joins the tower of one folder to the language model of another through a fresh, seeded projector."""
    vision, language = _folder(vision), _folder(language)
    tower, tower_layer, strategy = _tower(vision, attention)
    text = _language_model(language, attention)
    tokenizer = AutoTokenizer.from_pretrained(language)
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        text.resize_token_embeddings(len(tokenizer))
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    has_class_token = hasattr(_embeddings(tower), "class_embedding")
    config = LlavaConfig(
        vision_config=tower.config.to_dict(),
        text_config=text.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=patches,
        vision_feature_layer=tower_layer if vision_feature_layer is None else vision_feature_layer,
        vision_feature_select_strategy=strategy if has_class_token else "full",
        tie_word_embeddings=text.config.tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):  # construction draws numbers that are all overwritten below
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation=attention)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    initialise(model.model.multi_modal_projector, seed)
    model.generation_config = text.generation_config
    processor = LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(vision),
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=int(has_class_token),
    )
    return model.eval(), processor


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"model folder {folder} {what}; give the folder of a model saved in transformers' format")
    return folder


def _checked(factory: Any, folder: Path, dtype: str, attention: str) -> Any:
    """`from_pretrained` that refuses to invent missing weights or to drop unexpected ones."""
    with without_bars():
        model, info = factory.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True)
    problems = [
        f"{kind.replace('_keys', '')}: {', '.join(sorted(map(str, info[kind]))[:5])}{' ...' if len(info[kind]) > 5 else ''}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    if problems:
        raise ValueError(f"the weights in {folder} do not fit {type(model).__name__} ({'; '.join(problems)}); save the model again")
    return model.eval()


def _tower(folder: Path, attention: str) -> tuple[Any, int | list[int], str]:
    """The vision tower in a folder, the layer to read and whether its class token is left out."""
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "text_config") and hasattr(config, "vision_feature_layer"):
        whole = _checked(AutoModelForImageTextToText, folder, "float32", attention)
        return whole.model.vision_tower, config.vision_feature_layer, config.vision_feature_select_strategy
    if hasattr(config, "vision_config"):  # a contrastive pair, of which the tower is one half
        whole = _checked(AutoModel, folder, "float32", attention)
        return whole.vision_model, DEFAULT_FEATURE_LAYER, "default"
    return _checked(AutoModel, folder, "float32", attention), DEFAULT_FEATURE_LAYER, "default"


def _language_model(folder: Path, attention: str) -> Any:
    from model.language import extract

    config = AutoConfig.from_pretrained(folder)
    factory = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return extract(_checked(factory, folder, "float32", attention))


def _embeddings(tower: Any) -> Any:
    return tower.embeddings if hasattr(tower, "embeddings") else tower.vision_model.embeddings
