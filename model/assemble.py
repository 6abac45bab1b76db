"""A tower, a projector and a language model become one LLaVA."""

from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from model.architectures import on_meta
from model.attention import at_load
from model.config import ModelConfig
from model.language import Backbone, load_backbone, load_tokenizer
from model.presets import select
from model.processor import IMAGE_TOKEN, build_processor
from model.projector import initialise
from model.source import folder_of
from model.vision import Tower, load_tower


def assemble(config: ModelConfig, seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Joins a tower to a language model through a two-layer projector.

    Args:
        config: `vision` and `language`, and what else an assembly may be told.
        seed: Draws the projector, unless `config.projector` names a trained one.

    Returns:
        The model in float32 on the CPU, in evaluation mode, and its processor; plain transformers loads both once saved.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The parts do not fit one another; the message says which, and what to do.
    """
    assert config.vision is not None
    assert config.language is not None
    tower = load_tower(config.vision, attention=at_load(config.attention), image_size=config.image_size)
    text = load_backbone(config.language, attention=at_load(config.attention), image_token=IMAGE_TOKEN, chat_template=config.chat_template)
    joint = joint_config(config, tower, text)
    select(on_meta(joint), config.preset, config.presets)
    with torch.random.fork_rng(devices=[]):  # construction draws numbers that are all overwritten below
        model = LlavaForConditionalGeneration._from_config(joint, dtype=torch.float32, attn_implementation=at_load(config.attention))
    model.model.vision_tower.load_state_dict(tower.model.state_dict())
    model.model.language_model.load_state_dict(text.model.model.state_dict())
    model.lm_head.load_state_dict(text.model.lm_head.state_dict())
    if config.projector is None:
        initialise(model.model.multi_modal_projector, seed)
    else:
        from model.original_llava import load_projector

        load_projector(model.model.multi_modal_projector, Path(config.projector))
    model.generation_config = text.model.generation_config
    return model.eval(), build_processor(joint, tower.has_class_token, text.tokenizer, tower.image_processor)


def assembled_processor(config: ModelConfig) -> LlavaProcessor:
    """The processor that `assemble` gives, without the language model's weights."""
    assert config.vision is not None
    assert config.language is not None
    tower = load_tower(config.vision, attention=at_load(config.attention), image_size=config.image_size)
    tokenizer, _ = load_tokenizer(folder_of(config.language), image_token=IMAGE_TOKEN, chat_template=config.chat_template)
    strategy = config.vision_feature_select_strategy or tower.strategy
    native = LlavaConfig(vision_config=tower.model.config.to_dict(), vision_feature_select_strategy=strategy)
    return build_processor(native, tower.has_class_token, tokenizer, tower.image_processor)


def joint_config(config: ModelConfig, tower: Tower, text: Backbone) -> LlavaConfig:
    """The config of an assembly.

    Raises:
        ValueError: The tower has no such layer, or no class token to leave out.
    """
    layer = tower.layer if config.vision_feature_layer is None else config.vision_feature_layer
    depth = tower.model.config.num_hidden_layers
    for one in [layer] if isinstance(layer, int) else layer:
        if not -depth - 1 <= one <= depth:
            raise ValueError(
                f"model.vision_feature_layer: got {one}, but the tower has {depth} layers; give {-depth - 1} to {depth} (-1: the last)"
            )
    strategy = config.vision_feature_select_strategy or tower.strategy
    if strategy == "default" and not tower.has_class_token:
        raise ValueError("model.vision_feature_select_strategy: default leaves the class token out, but this tower has none; give full")
    return LlavaConfig(
        vision_config=tower.model.config.to_dict(),
        text_config=text.model.config.to_dict(),
        image_token_index=text.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=tower.patches + int(strategy == "full" and tower.has_class_token),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=text.model.config.tie_word_embeddings,
    )
