"""The language backbone of a LLaVA-style model as a model of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from model.quiet import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def extract(model: Any) -> "PreTrainedModel":
    """Copies the text backbone with its head out of a LLaVA-style model; logits on text stay equal.

    Args:
        model: A `LlavaForConditionalGeneration`, or a text-only causal model, which is returned as it is.
    """
    from transformers import AutoModelForCausalLM

    if not hasattr(model.config, "text_config"):
        return model
    # A copy of the config: the two models may later differ in attention or cache settings.
    config = type(model.config.text_config).from_dict(model.config.text_config.to_dict())
    with torch.random.fork_rng(devices=[]):
        text = AutoModelForCausalLM.from_config(config, dtype=model.dtype, attn_implementation=model.config._attn_implementation)
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.lm_head.load_state_dict(model.lm_head.state_dict())
    text.generation_config = model.generation_config
    return text.eval()


def save(model: Any, processor: Any, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the extracted backbone with the processor's tokenizer, in `dtype`; gives the folder."""
    folder = Path(folder)
    with without_bars():
        extract(model).to(dtype).save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return folder
