"""What a recipe's model section would load or assemble, as a config, without weights or a network."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from model.architectures import HUB, PARTS, on_the_hub
from model.config import OPEN_CLIP, ModelConfig
from model.source import is_hub_name

Maker = Callable[[str], tuple[ModelConfig, str] | None]
"""A folder that is not there -> the model section of the recipe that will write it, the recipe's name."""


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A model before it is loaded.

    Attributes:
        config: Its transformers config.
        local: The model section with folders of this machine in place of names; None where some of its files are not here.
        notes: What is not here, and where its sizes are known from.
    """

    config: Any
    local: ModelConfig | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Found:
    config: Any
    folder: Path | None = None
    tokens: int | None = None
    notes: tuple[str, ...] = ()


def sketch(config: ModelConfig, made_by: Maker = lambda name: None) -> Sketch:
    """Finds a model's sizes: in its folder, in the hub's cache, in the recipe that will make it, or in the table of well-known ones.

    Args:
        config: The section, with built-in names already turned into folders.
        made_by: Knows recipes that write model folders.

    Raises:
        ValueError: Its sizes are known from nowhere, or its parts do not fit one another.
    """
    if config.base is not None:
        found = _find(config.base, "model.base", made_by)
        local = None if found.folder is None else config.model_copy(update={"base": str(found.folder)})
        return Sketch(config=found.config, local=local, notes=found.notes)
    assert config.vision is not None
    assert config.language is not None
    vision, language = _find(config.vision, "model.vision", made_by), _find(config.language, "model.language", made_by)
    local = None
    if vision.folder is not None and language.folder is not None:
        local = config.model_copy(update={"vision": str(vision.folder), "language": str(language.folder)})
    return Sketch(config=_joined(config, vision, language), local=local, notes=vision.notes + language.notes)


def config_of(name: str, where: str) -> Any:
    """The transformers config of a folder or a name on the hub.

    Raises:
        ValueError: Its sizes are known from nowhere; the message begins with `where` it is named.
    """
    return _find(name, where, lambda name: None).config


def cached_folder(name: str) -> Path | None:
    """Where the hub's cache holds a model's config; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _find(name: str, where: str, made_by: Maker) -> _Found:
    from transformers import AutoConfig

    folder = Path(name) if (Path(name) / "config.json").is_file() else cached_folder(name) if is_hub_name(name) else None
    if folder is not None:
        return _Found(config=AutoConfig.from_pretrained(folder), folder=folder)
    maker = made_by(name)
    if maker is not None:
        section, recipe = maker
        before = sketch(section, made_by)
        return _Found(config=before.config, notes=(f"{name} is not here yet; sizes as {recipe} makes it", *before.notes))
    known = on_the_hub(name)
    if known is not None:
        tokens = PARTS[name].tokens if name in PARTS else None
        return _Found(config=known, tokens=tokens, notes=(f"{name} is not here; sizes as published",))
    if name.startswith(OPEN_CLIP):
        raise ValueError(f"{where}: {name}: the sizes of open_clip's towers are not known without loading them; assemble it first")
    raise ValueError(
        f"{where}: {name} is not here, and its sizes are not known; give a folder with a config.json, fetch it (hf download {name} "
        f"config.json), or take one of {', '.join([*HUB, *PARTS])}"
    )


def _joined(config: ModelConfig, vision: _Found, language: _Found) -> Any:
    """The config of an assembly, by the rules of `model.assemble`, from configs alone."""
    import torch
    from transformers import AutoModel

    from model.assemble import joint_config
    from model.language import Backbone
    from model.processor import IMAGE_TOKEN
    from model.vision import DEFAULT_LAYER, Tower

    source = vision.config
    tower_config = deepcopy(getattr(source, "vision_config", source))
    if config.image_size is not None:
        tower_config.image_size = config.image_size
    with torch.device("meta"):
        tower = AutoModel.from_config(tower_config)
    strategy = getattr(source, "vision_feature_select_strategy", "default")
    strategy = strategy if hasattr(tower.embeddings, "class_embedding") else "full"
    text = deepcopy(language.config.get_text_config())
    image = _image_token(config, language)
    text.vocab_size = max(text.vocab_size, image + 1)
    tokenizer = SimpleNamespace(convert_tokens_to_ids={IMAGE_TOKEN: image}.__getitem__)
    return joint_config(
        config,
        Tower(model=tower, image_processor=None, layer=getattr(source, "vision_feature_layer", DEFAULT_LAYER), strategy=strategy),
        Backbone(model=SimpleNamespace(config=text), tokenizer=tokenizer),
    )


def _image_token(config: ModelConfig, language: _Found) -> int:
    """The id of the token for pictures, behind those of the tokenizer where it has none yet."""
    from model.language import load_tokenizer
    from model.processor import IMAGE_TOKEN

    if language.folder is None:
        return int(language.config.get_text_config().vocab_size - 1 if language.tokens is None else language.tokens)
    tokenizer, _ = load_tokenizer(language.folder, image_token=IMAGE_TOKEN, chat_template=config.chat_template)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
