"""The processor of an original LLaVA checkpoint: its tokenizer, its chat template, its pictures."""

import warnings
from pathlib import Path
from typing import Any

from model.processor import IMAGE_TOKEN

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
PICTURE_SETTINGS = (
    *("do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
# The original's conversation "vicuna_v1". A string is written as it is; of a list of parts, the pictures come first, as in its training.
VICUNA = """\
{%- macro text(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in content if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{{- text(messages[0]['content']) + ' ' -}}
{%- set turns = messages[1:] -%}
{%- else -%}
{{- "A chat between a curious human and an artificial intelligence assistant. " -}}
{{- "The assistant gives helpful, detailed, and polite answers to the human's questions. " -}}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{- 'USER: ' + text(message['content']) + ' ' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' + text(message['content']) + eos_token -}}
{%- else -%}
{{- raise_exception("role '" + message['role'] + "' is neither user nor assistant") -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
"""


def build_tokenizer(source: Path, text: Any) -> Any:
    """The checkpoint's tokenizer with `<image>` as a special token.

    Its chat template stays as it is. Without one, a LLaMA gets the original's "vicuna_v1"; another model none, with a warning.

    Args:
        source: The checkpoint's folder.
        text: The language model's transformers config.

    Raises:
        FileNotFoundError: There is no tokenizer.
        ValueError: It cannot be read.
    """
    from transformers import AddedToken, AutoTokenizer

    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{source} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); copy it from the language model")
    try:
        # With the config of the language model: the folder's own names a type that transformers does not know.
        tokenizer = AutoTokenizer.from_pretrained(source, config=text)
    except (ImportError, OSError, ValueError) as error:
        hint = "a tokenizer.model alone needs the package sentencepiece, a tokenizer.json needs nothing"
        raise ValueError(f"the tokenizer in {source} cannot be read: {error}; {hint}") from error
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    if not tokenizer.chat_template and text.model_type == "llama":
        tokenizer.chat_template = VICUNA
    elif not tokenizer.chat_template:
        what = f"the tokenizer in {source} has no chat template, and the original's for {text.model_type} is not known"
        warnings.warn(f"{what}; set tokenizer.chat_template before training", stacklevel=3)
    return tokenizer


def build_image_processor(native: Any, ratio: str, own: Any) -> Any:
    """The picture processor for a native config.

    Args:
        native: A `LlavaConfig` or `LlavaNextConfig`.
        ratio: The original's `image_aspect_ratio`. "pad": to a square, with the mean colour; "square": cut to one, at the centre;
            "anyres": into tiles.
        own: The tower's own picture processor, whose sizes, means and deviations are kept.
    """
    from transformers import LlavaImageProcessor, LlavaNextImageProcessor

    size = native.vision_config.image_size
    # SigLIP's own processor crops nothing, so it knows no crop size; the number of image tokens is computed from one.
    settings = {"do_center_crop": False, "crop_size": {"height": size, "width": size}} | own.to_dict()
    settings = {name: settings[name] for name in PICTURE_SETTINGS if settings.get(name) is not None}
    if native.model_type == "llava_next":
        return LlavaNextImageProcessor(image_grid_pinpoints=native.image_grid_pinpoints, **settings)
    return LlavaImageProcessor(do_pad=ratio == "pad", **settings)
