"""The language backbone: taken out of a LLaVA-style model, or made ready to see."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from model.loading import checked
from model.quiet import without_bars
from model.source import folder_of

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


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A causal language model in float32, with its tokenizer."""

    model: Any
    tokenizer: Any


def load_backbone(source: str | Path, *, attention: str, image_token: str, chat_template: str | None = None) -> Backbone:
    """Loads a language model (LLaMA, Qwen, ... or that of a LLaVA) that knows a token for pictures.

    Args:
        source: Folder or name on the hub.
        attention: Attention kernel.
        image_token: Added to the tokenizer where it is missing; its rows in embeddings and head start as the mean of the others.
        chat_template: File with a jinja template, in place of the tokenizer's own.

    Raises:
        ValueError: The tokenizer has an ordinary token of that name, or no chat template; weights are missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    folder = folder_of(source)
    tokenizer, known = load_tokenizer(folder, image_token=image_token, chat_template=chat_template)
    config = AutoConfig.from_pretrained(folder)
    factory = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = extract(checked(factory, folder, "float32", attention))
    add_row(model, tokenizer.convert_tokens_to_ids(image_token), fresh=not known)
    return Backbone(model=model, tokenizer=tokenizer)


def load_tokenizer(folder: Path, *, image_token: str, chat_template: str | None) -> tuple[Any, bool]:
    """A language model's tokenizer with a token for pictures, then whether it had one already; `load_backbone` says what is raised."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ValueError(f"language: the tokenizer in {folder} has no chat template; name a file with one in model.chat_template")
    known = image_token in tokenizer.get_vocab()
    if known and image_token not in tokenizer.all_special_tokens:
        raise ValueError(
            f"language: the tokenizer in {folder} has {image_token} as an ordinary token, so that text could turn into pictures; make it a "
            "special token there if it stands for pictures, else rename it"
        )
    if not known:
        tokenizer.add_tokens([image_token], special_tokens=True)
    return tokenizer, known


@torch.no_grad()
def add_row(model: Any, token: int, *, fresh: bool) -> None:
    """Makes room for a token in embeddings and head; a fresh token's rows become the mean of all before them.

    Tables that are longer than the vocabulary (Qwen's are padded) keep their length.
    """
    rows = model.get_input_embeddings().num_embeddings
    if token >= rows:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(token + 1, mean_resizing=False)
    if fresh:
        for table in {id(one.weight): one.weight for one in (model.get_input_embeddings(), model.get_output_embeddings())}.values():
            table[token] = table[: min(rows, token)].mean(dim=0)
