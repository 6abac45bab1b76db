"""The Terrarium's tokenizer, chat template and picture processor."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from data.terrarium.draw import SIZE

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"
SPECIAL_TOKENS = ("<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", IMAGE_TOKEN)

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ('system', 'user', 'assistant') -%}
{{- raise_exception("unknown role '" + message['role'] + "'") -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- '<image>' if part['type'] == 'image' else part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 1024) -> "PreTrainedTokenizerFast":
    """Learns a byte-level BPE vocabulary from `texts`; digits always stand alone, `<|end|>` ends every turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor(tokenizer: "PreTrainedTokenizerFast", patch_size: int) -> "LlavaProcessor":
    """The tokenizer beside a picture processor that neither crops nor resizes what is already `SIZE` x `SIZE`."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.27] * 3, do_center_crop=False)
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )
