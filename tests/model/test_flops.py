"""The count of operations against torch's own count of what is run, and against figures worked out by hand."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.adapters import AdapterConfig, attach
from model.architectures import on_meta, read_config
from model.chips import peak
from model.config import GateConfig
from model.flops import Costs, Work, step_costs
from model.presets import apply, select
from model.siamese import make_siamese

PRESETS = ("full", "llm", "llm_blocks", "sa_proj", "sa_qkv", "mlp", "mlp_gate_up", "mlp_down", "projector", "vision")
TEXT, IMAGE, LABELS = 40, 16, 12  # tokens of a sample: text, one picture's; those that carry loss


def tiny_llava(*, tied: bool = False) -> Any:
    """A LLaVA of three layers each on 17 positions of a picture, whose tower is read at its end."""
    import transformers as hf

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    tower = hf.CLIPVisionConfig(**sizes, image_size=64, patch_size=16)
    text = hf.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=300, tie_word_embeddings=tied)
    config = hf.LlavaConfig(
        vision_config=tower,
        text_config=text,
        vision_feature_layer=-1,
        image_token_index=7,
        image_seq_length=IMAGE,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return hf.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")


def measured(model: Any) -> int:
    """Operations of a step on two samples with a picture each, as torch counts them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(8, 300, (2, TEXT + IMAGE), generator=generator)
    ids[:, 2 : 2 + IMAGE] = 7
    pixels = torch.rand(2, 3, 64, 64, generator=generator)
    keep = torch.arange(TEXT + IMAGE - LABELS, TEXT + IMAGE)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=pixels, logits_to_keep=keep, use_cache=False).logits.square().mean().backward()
    return counter.get_total_flops()


def done(costs: Costs) -> float:
    """The same step by our count; attention as that model runs it, over whole squares."""
    length = TEXT + IMAGE
    tower = {"patches": 32, "positions": 34, "position_pairs": 2 * 17**2, "projected": 32}
    return float(costs.of(Work(tokens=2 * length, pairs=2 * length**2, labels=2 * LABELS, **tower)))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_costs_what_torch_counts(preset: str) -> None:
    model = tiny_llava()
    apply(model, preset)
    assert done(step_costs(model, set(select(model, preset)))) == pytest.approx(measured(model), rel=2e-3)


@pytest.mark.parametrize("preset", ["sa_proj[1:]", "mlp_gate_up[-1]", "mlp_down[2]", "sa_proj[1]+projector"])
def test_what_stands_below_everything_that_trains_costs_its_forward_pass_alone(preset: str) -> None:
    model = tiny_llava()
    apply(model, preset)
    assert done(step_costs(model, set(select(model, preset)))) == pytest.approx(measured(model), rel=2e-3)


@pytest.mark.parametrize("preset", ["llm", "sa_proj"])
def test_a_head_tied_to_the_embeddings_costs_what_torch_counts(preset: str) -> None:
    model = tiny_llava(tied=True)
    apply(model, preset)
    assert done(step_costs(model, set(select(model, preset)))) == pytest.approx(measured(model), rel=2e-3)


@pytest.mark.parametrize("preset", ["sa_proj", "llm_blocks+projector"])
def test_lora_costs_what_torch_counts(preset: str) -> None:
    model = tiny_llava()
    _, manifest = attach(model, AdapterConfig(kind="lora", rank=8), preset, steps=1, seed=0)
    assert done(step_costs(model, {one.name for one in manifest.tensors})) == pytest.approx(measured(model), rel=2e-3)


@pytest.mark.parametrize("preset", ["llm_blocks", "sa_proj[1:]"])
def test_a_siamese_model_costs_what_torch_counts(preset: str) -> None:
    model = tiny_llava()
    attach(model, AdapterConfig(kind="lora", rank=8), preset, steps=1, seed=0)
    siamese = make_siamese(model, GateConfig(rank=1), seed=0)
    trainable = [name for name, one in model.named_parameters() if one.requires_grad]
    # Of the gate, this loss has one prompt for each sample where we count one for each label: less than a thousandth here.
    assert done(step_costs(model, trainable)) == pytest.approx(measured(model), rel=2e-3)
    with siamese.alone("tuned"):
        assert measured(model) < 0.8 * done(step_costs(model, trainable))


def test_llava_15_7b_costs_what_a_hand_calculation_says() -> None:
    model = on_meta(read_config("llava-1.5-7b"))
    costs = step_costs(model, set(select(model, "full")))
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert costs.tokens == 6 * 32 * layer
    assert costs.pairs == 12 * 32 * 4096
    assert costs.labels == 6 * 4096 * 32064
    assert costs.positions == 6 * 23 * 12 * 1024 * 1024  # the 24th layer is never read
    assert costs.position_pairs == 12 * 23 * 1024
    assert costs.projected == 6 * (1024 * 4096 + 4096 * 4096)
    assert costs.patches == 4 * 3 * 14 * 14 * 1024  # a picture needs no gradient


def mixture(costs: Costs) -> float:
    """A sample of the mixture of LLaVA-1.5: 865 tokens, a fifth with a label, 94 % with a picture of 576."""
    tower = {"patches": 576, "positions": 577, "position_pairs": 577**2, "projected": 576}
    shares = {name: 0.94 * count for name, count in tower.items()}
    return float(costs.of(Work(tokens=865, pairs=865 * 866 / 2, labels=865 / 5, **shares)))


def small_llava() -> Any:
    import transformers as hf

    tower = hf.CLIPVisionConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, image_size=336, patch_size=14
    )
    text = hf.LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2752, num_hidden_layers=12, num_attention_heads=16, num_key_value_heads=16
    )
    return on_meta(hf.LlavaConfig(vision_config=tower, text_config=text, vision_feature_layer=-2))


@pytest.mark.parametrize(("preset", "ratio"), [("llm", 0.95), ("sa_proj", 0.72), ("mlp_gate_up", 0.75), ("projector", 0.64)])
def test_presets_of_a_small_llava_cost_the_measured_shares_of_full_tuning(preset: str, ratio: float) -> None:
    model = small_llava()
    cost, full = (mixture(step_costs(model, set(select(model, name)))) for name in (preset, "full"))
    assert cost / full == pytest.approx(ratio, rel=0.05)


def test_costs_of_a_partitioned_model_are_those_of_the_whole_one() -> None:
    model = tiny_llava()
    names = set(select(model, "sa_proj"))
    whole = step_costs(model, names)
    for parameter in model.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    assert step_costs(model, names) == whole


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen3-vl-8b", "llava-onevision-qwen2-7b", "llava-next-llama3-8b"])
def test_every_matrix_of_every_family_is_counted_once(name: str) -> None:
    model = on_meta(read_config(name))
    costs = step_costs(model, ())
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    matrices = [one.weight.numel() for one in model.modules() if isinstance(one, kinds)]
    unread = 12 * 1024**2 if name.startswith("llava-next") else 0  # the last layer of its tower; the others read all of theirs
    counted = costs.tokens + costs.labels + costs.positions + costs.projected + costs.patches
    assert counted / 2 == sum(matrices) - unread


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_a_known_chip_has_its_peak(name: str, tera: float) -> None:
    assert peak(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB MIG 3g.40gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Tesla T4", "AMD EPYC 7763"])
def test_an_unknown_chip_or_a_part_of_one_has_no_peak(name: str) -> None:
    assert peak(name) is None
