"""Which attention kernel a run takes, for its rows, its model, its machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from model.architectures import on_meta
from model.attention import Machine, kernel, tree_obstacle, use

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CPU = Machine(cuda=False, flash=False, varlen=True)
GPU = Machine(cuda=True, flash=True, varlen=True)


@pytest.fixture(scope="module")
def model_of(family_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Gives a family's model without numbers."""

    def model(family: str) -> Any:
        if family == "llama":
            return on_meta(transformers.LlamaConfig(**SIZES))
        return on_meta(transformers.AutoConfig.from_pretrained(family_folder(family)))

    return model


@pytest.mark.parametrize(
    ("rows", "machine", "half", "expected"),
    [
        ("padded", GPU, True, "sdpa"),
        ("packed", GPU, True, "flash_attention_2"),
        ("packed", Machine(cuda=True, flash=False, varlen=True), True, "varlen"),
        ("packed", Machine(cuda=True, flash=False, varlen=False), True, "sdpa"),
        ("packed", GPU, False, "sdpa"),
        ("packed", CPU, True, "sdpa"),
        ("trees", CPU, False, "sdpa"),
        ("trees", GPU, True, "flex_attention"),
    ],
)
def test_auto_takes_the_kernel_for_rows_and_machine(
    model_of: Callable[[str], Any], rows: Any, machine: Machine, half: bool, expected: str
) -> None:
    assert kernel("auto", model_of("llama"), rows=rows, machine=machine, half=half) == expected


@pytest.mark.parametrize(
    ("name", "rows", "machine", "half", "message"),
    [
        ("flash_attention_2", "packed", Machine(cuda=True, flash=False, varlen=True), True, "not installed; install it"),
        ("flash_attention_2", "padded", GPU, False, "this run is in fp32; set train.precision: bf16"),
        ("flash_attention_2", "packed", CPU, True, "computes on a GPU alone"),
        ("varlen", "packed", CPU, True, "computes on a GPU alone"),
        ("varlen", "packed", GPU, False, "this run is in fp32"),
        ("varlen", "padded", GPU, True, "takes packed rows alone; set data.packing"),
        ("varlen", "packed", Machine(cuda=True, flash=True, varlen=False), True, "is not in torch"),
        ("varlen", "trees", GPU, True, "cannot let dialogues of a tree share a row"),
        ("flex_attention", "packed", CPU, False, "no backward pass without a GPU; give auto"),
    ],
)
def test_a_kernel_that_cannot_is_refused_in_words(
    model_of: Callable[[str], Any], name: str, rows: Any, machine: Machine, half: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^model.attention: {name} .*{message}"):
        kernel(name, model_of("llama"), rows=rows, machine=machine, half=half)


@pytest.mark.parametrize(
    ("name", "family", "machine", "joins"),
    [
        ("auto", "llama", CPU, True),
        ("auto", "llava-siglip-qwen2", GPU, True),
        ("sdpa", "llava-siglip-qwen2", GPU, True),
        ("eager", "llama", CPU, True),
        ("flash_attention_2", "llama", GPU, False),
        ("varlen", "llama", GPU, False),
        ("flex_attention", "llama", CPU, False),
        ("flex_attention", "llama", GPU, True),
        ("auto", "qwen2_5_vl", CPU, False),
        ("auto", "qwen3_vl", GPU, False),
    ],
)
def test_trees_share_rows_where_kernel_and_family_can(
    model_of: Callable[[str], Any], name: str, family: str, machine: Machine, joins: bool
) -> None:
    assert (tree_obstacle(name, model_of(family), machine) is None) == joins


def test_flex_is_refused_for_families_without_it(model_of: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="does not go with qwen3_vl"):
        kernel("flex_attention", model_of("qwen3_vl"), rows="packed", machine=GPU, half=True)


@pytest.mark.parametrize(
    "config",
    [
        transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        transformers.MistralConfig(**SIZES, sliding_window=8),
    ],
)
def test_layers_that_slide_a_window_are_refused_for_packed_rows(config: Any) -> None:
    model = on_meta(config)
    with pytest.raises(ValueError, match="layers of kind sliding_attention; leave data.packing out"):
        kernel("auto", model, rows="packed", machine=CPU, half=False)
    assert kernel("auto", model, rows="padded", machine=CPU, half=False) == "sdpa"


@pytest.mark.parametrize("name", ["varlen", "flex_attention"])
def test_the_tower_keeps_sdpa_under_kernels_for_packed_text(model_of: Callable[[str], Any], name: str) -> None:
    model = model_of("llava-siglip-qwen2")
    use(model, name)
    kernels = {type(module).__name__: module.config._attn_implementation for module in model.modules() if hasattr(module, "k_proj")}
    assert kernels == {"SiglipAttention": "sdpa", "Qwen2Attention": name}
