"""The processor of a LLaVA: its tokenizer beside what makes its pictures."""

from typing import Any

IMAGE_TOKEN = "<image>"


def build_processor(native: Any, has_class_token: bool, tokenizer: Any, image_processor: Any) -> Any:
    """The processor for a native LLaVA or LLaVA-NeXT config."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    return (LlavaNextProcessor if native.model_type == "llava_next" else LlavaProcessor)(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=native.vision_config.patch_size,
        vision_feature_select_strategy=native.vision_feature_select_strategy,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=int(has_class_token),
    )


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, which may be one itself."""
    return getattr(processor, "tokenizer", processor)
