"""Built-in architectures have the sizes of the models they are named after."""

import pytest
import torch

from model.architectures import ARCHITECTURES, on_meta, on_the_hub, read_config
from model.presets import PRESETS, select

# Billions of parameters, as the models' cards or files give them; the towers of LLaVA-1.5 and NeXT count in full.
TOTALS = {
    "llava-1.5-7b": 7.06,
    "llava-next-llama3-8b": 8.36,
    "llava-onevision-qwen2-7b": 8.03,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-8b": 8.77,
}
# Billions that train (arXiv 2510.08564, released code): Qwen2-7B, Llama-3-8B.
PAPER = {
    "llava-onevision-qwen2-7b": {"sa_qkv": 0.46, "sa_proj": 0.82, "mlp_gate_up": 3.80, "mlp": 5.70},
    "llava-next-llama3-8b": {"sa_qkv": 0.81, "sa_proj": 1.34, "mlp_gate_up": 3.76, "mlp": 5.64},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def named(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module]:
    return request.param, on_meta(read_config(request.param))


def billions(model: torch.nn.Module, preset: str) -> float:
    return sum(parameter.numel() for parameter in select(model, preset).values()) / 1e9


def test_the_model_has_its_published_size(named: tuple[str, torch.nn.Module]) -> None:
    name, model = named
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(TOTALS[name], abs=0.02)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_presets_train_as_much_as_the_paper_says(named: tuple[str, torch.nn.Module]) -> None:
    name, model = named
    found = {preset: round(billions(model, preset), 2) for preset in PAPER.get(name, {})}
    assert found == PAPER.get(name, {})


def test_every_preset_fits(named: tuple[str, torch.nn.Module]) -> None:
    assert all(select(named[1], preset) for preset in PRESETS)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'qwen2\.5-vl-7b'"):
        read_config("qwen2.5-vl-7")


@pytest.mark.parametrize(
    ("name", "billions"), [("lmsys/vicuna-7b-v1.5", 6.74), ("Qwen/Qwen2.5-7B-Instruct", 7.62), ("Qwen/Qwen3-8B", 8.19)]
)
def test_language_models_of_the_hub_have_their_published_size(name: str, billions: float) -> None:
    assert sum(parameter.numel() for parameter in on_meta(on_the_hub(name)).parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_name_on_the_hub_is_the_architecture_of_its_model() -> None:
    assert on_the_hub("Qwen/Qwen2.5-VL-7B-Instruct").to_dict() == read_config("qwen2.5-vl-7b").to_dict()
    assert on_the_hub("nobody/nothing") is None
