"""Bytes per GPU are those that DeepSpeed allocates; activations are near those that PyTorch keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from engine_bytes import bytes_while_training, expected_bytes, recipe_of
from transformers import LlamaConfig, LlamaForCausalLM

from model.activations import Batch, Means, estimate
from model.memory import Engine, Numbers, Precision, per_gpu
from model.presets import apply

NUMBERS = Numbers(trained=((8, 8, 8, 8),), frozen=(68,))
ENGINES = [
    *[(f"zero{stage}", precision, passes) for stage in range(4) for precision, passes in (("fp32", 1), ("bf16", 2))],
    ("zero2_offload", "bf16", 2),
    ("zero3_offload", "fp32", 1),
]


@pytest.mark.parametrize(("stage", "expected"), [(0, (200, 64, 384)), (1, (200, 64, 96)), (2, (200, 16, 96)), (3, (50, 16, 96))])
def test_each_zero_stage_divides_one_thing_more(stage: int, expected: tuple[int, int, int]) -> None:
    found = per_gpu(NUMBERS, Engine(stage=stage, gpus=4)).gpu
    assert (found.weights, found.gradients, found.optimizer) == expected
    assert found.total == sum(expected)


@pytest.mark.parametrize(
    ("stage", "weights", "optimizer"), [(2, 2 * (8 + 8 + 3), 12 * (2 + 2)), (3, 2 * (2 + 1 + 1 + 1), 12 * (2 + 1 + 1))]
)
def test_partitions_are_padded(stage: int, weights: int, optimizer: int) -> None:
    # Groups of 5 + 1 and 1 numbers on 4 GPUs: each group is filled up to a multiple of 8; under stage 3 each tensor to a multiple of 4.
    found = per_gpu(Numbers(trained=((5, 1), (1,)), frozen=(3,)), Engine(stage=stage, gpus=4)).gpu
    assert (found.weights, found.optimizer) == (weights, optimizer)


def test_gradients_of_stage_2_are_kept_tensor_by_tensor_on_the_gpu_that_touches_most() -> None:
    # The first tensor's 12 numbers reach into both partitions of 8: the second GPU keeps it whole beside its own 4.
    found = per_gpu(Numbers(trained=((12, 4),)), Engine(stage=2, gpus=2)).gpu
    assert (found.gradients, found.optimizer) == (2 * 16, 12 * 8)


def test_bf16_weights_have_a_master_everywhere_and_fp32_ones_only_under_zero() -> None:
    per_number = {
        (stage, precision): per_gpu(NUMBERS, Engine(stage=stage, precision=precision)).gpu.optimizer / NUMBERS.trainable
        for stage in (0, 1)
        for precision in ("fp32", "bf16")
    }
    assert per_number == {(0, "fp32"): 8, (0, "bf16"): 12, (1, "fp32"): 12, (1, "bf16"): 12}


@pytest.mark.parametrize("offload", ["optimizer", "weights"])
def test_what_is_offloaded_lies_in_the_host_alone(offload: Any) -> None:
    found = per_gpu(NUMBERS, Engine(stage=3, gpus=4, offload=offload, persistent=8))
    assert (found.gpu.gradients, found.gpu.optimizer) == (0, 0)
    assert (found.gpu.weights, found.host.weights) == ((2 * (25 + 32), 0) if offload == "optimizer" else (2 * 32, 2 * 25))
    assert (found.host.gradients, found.host.optimizer) == (6 * 8, 12 * 8)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"stage": 4}, "ZeRO stage: got 4"),
        ({"stage": 1, "gpus": 0}, "number of GPUs: got 0"),
        ({"stage": 1, "offload": "optimizer"}, "cannot offload the optimizer; take stage 2"),
        ({"stage": 2, "offload": "weights"}, "cannot offload the weights; take stage 3"),
    ],
)
def test_what_deepspeed_does_not_do_is_refused(engine: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Engine(**engine)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("zero", "precision", "passes"), ENGINES)
def test_the_engine_holds_what_is_reckoned(tiny_folder: Path, data: Path, tmp_path: Path, zero: str, precision: str, passes: int) -> None:
    recipe = recipe_of(tiny_folder, data, tmp_path / "run", zero=zero, precision=precision, micro_batch_size=4 // passes)
    assert bytes_while_training(recipe) == expected_bytes(recipe, tmp_path)


def test_adapters_are_reckoned_as_the_engine_holds_them(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_folder, data, tmp_path / "run", zero="zero3", precision="bf16")
    recipe["model"]["adapter"] = {"kind": "lora", "rank": 3}
    assert bytes_while_training(recipe) == expected_bytes(recipe, tmp_path)


@pytest.mark.parametrize(("checkpointing", "partitioned"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("preset", ["llm_blocks", "sa_proj", "sa_proj[2:]", "mlp_gate_up"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_estimated_activations_are_within_a_tenth_of_what_is_kept(
    precision: Precision, preset: str, checkpointing: bool, partitioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DeepSpeed puts its own in place for ZeRO-3, and leaves it there.
    monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap if partitioned else torch._C._nn.linear)
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision]).train()
    trainable = {tensor.name for tensor in apply(model, preset).tensors}
    batch = Batch(rows=2, width=64)
    found = estimate(model, trainable, batch, Means(precision=precision, checkpointing=checkpointing, partitioned=partitioned))
    if checkpointing:  # the layer that is computed again is not there yet when the forward pass ends
        found -= estimate(model, trainable, batch, Means(precision=precision)) // (6 if "[2:]" in preset else 8)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = _kept(model, batch)
    last_norm = 4 * batch.rows * batch.width * 64
    assert found == pytest.approx(kept - last_norm, rel=0.1)


def _kept(model: Any, batch: Batch) -> int:
    """Bytes that a forward pass of the layers keeps for its backward pass, weights not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.arange(batch.rows * batch.width).reshape(batch.rows, batch.width) % 64
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return sum(tensor.untyped_storage().nbytes() for at, tensor in held.items() if at not in own)
