"""The only way to a (model, processor) pair."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig

from model.architectures import on_meta
from model.assemble import assemble, assembled_processor
from model.attention import at_load, use
from model.config import ModelConfig
from model.loading import checked
from model.partial import is_partial, is_siamese, laid_on_base
from model.presets import select
from model.source import folder_of


def load(config: ModelConfig, seed: int) -> tuple[Any, Any]:
    """Loads or assembles what a recipe's `model` section asks for.

    Args:
        config: The section, with built-in names already turned into folders.
        seed: Draws the projector of an assembly.

    Returns:
        The model in float32 on the CPU, in evaluation mode, and its processor. Its attention is eager where the recipe says so, else sdpa;
        `model.attention` switches it to the kernel that the rows of a run want.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The preset does not fit the model (found before any weight is read), or weights in a folder do not.
    """
    if config.base is not None:
        folder = folder_of(config.base)
        select(on_meta(AutoConfig.from_pretrained(folder)), config.preset, config.presets)
        if is_siamese(folder):
            raise ValueError(
                f"model.base: {folder} holds a siamese model, which no run tunes or grows further; distil it first (perennial distil)"
            )
        return load_pair(folder, attention=at_load(config.attention))
    return assemble(config, seed)


def load_pair(folder: str | Path, *, dtype: str = "float32", attention: str = "sdpa") -> tuple[Any, Any]:
    """Loads a saved model and its processor; every weight must be there.

    Args:
        folder: A folder in transformers' own format, or a name on the hub: LLaVA-style, or a text-only causal model (then the second is
            its tokenizer); or one that holds only what was trained.
        dtype: Name of the torch dtype to compute in; weights stored in another one are cast.
        attention: Name of a kernel; auto, which only the rows of a run can decide on, stands for sdpa here.
    """
    folder = folder_of(folder)
    if is_partial(folder):
        model = laid_on_base(folder, load, at_load(attention)).to(getattr(torch, dtype)).eval()
    else:
        model = checked(AutoModelForImageTextToText if _is_visual(folder) else AutoModelForCausalLM, folder, dtype, at_load(attention))
    if attention not in ("auto", at_load(attention)):
        use(model, attention)
    return model, _processor(folder)


def load_processor(config: ModelConfig) -> Any:
    """The processor (of a text-only model the tokenizer) of what `load` gives, without the language model's weights."""
    return assembled_processor(config) if config.base is None else _processor(folder_of(config.base))


def end_ids_of(config: ModelConfig) -> tuple[int, ...]:
    """Tokens that end any text of a saved model, as its generation config says; none where it says nothing."""
    if config.base is None or not (folder_of(config.base) / "generation_config.json").is_file():
        return ()
    ends = GenerationConfig.from_pretrained(folder_of(config.base)).eos_token_id
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


def _processor(folder: Path) -> Any:
    return (AutoProcessor if _is_visual(folder) else AutoTokenizer).from_pretrained(folder)


def _is_visual(folder: Path) -> bool:
    config = AutoConfig.from_pretrained(folder)
    return hasattr(config, "vision_config") and hasattr(config, "text_config")
