"""The vLLM engine: how requests are mapped onto vLLM's arguments, with a stand-in module; what only a GPU can show, with vLLM itself."""

import builtins
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from data.terrarium.base import BASE
from data.trees.config import VllmEngineConfig
from data.trees.engine import Request, Sampling
from data.trees.vllm_engine import VllmEngine

CONFIG = VllmEngineConfig(kind="vllm", tensor_parallel=2, gpu_memory=0.5, batch_size=7)
SAMPLING = Sampling(max_tokens=9, temperature=0.7, top_p=0.8, stop_ids=(2, 5), stop_texts=("[/INST]",))
REQUESTS = [Request(prompt="<s><|user|>", ids=(1, 4), seed=seed) for seed in (11, 2**62)]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def stand_in(monkeypatch):
    """A module in vLLM's place, which notes what it is asked and ends every turn as `ends` says."""
    asked = SimpleNamespace(model={}, prompts=[], settings=[], ends=("stop", 2))

    class LLM:
        def __init__(self, **arguments):
            asked.model = arguments

        def generate(self, prompts, settings, *, use_tqdm):
            asked.prompts, asked.settings = prompts, settings
            reason, stop = asked.ends
            turn = SimpleNamespace(
                text="two plus five", token_ids=(7, 8, 9, 10, 11, 2), cumulative_logprob=-1.5, finish_reason=reason, stop_reason=stop
            )
            return [SimpleNamespace(outputs=[turn]) for _ in prompts]

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **arguments: arguments
    monkeypatch.setitem(sys.modules, "vllm", module)
    return asked


def _written(tokenizer):
    engine = VllmEngine(CONFIG, str(BASE / "language"), tokenizer, end_ids=(2,))
    return engine, list(engine.complete([REQUESTS], SAMPLING))


def test_mapping_only_the_model_is_loaded_as_the_recipe_says_with_prefix_caching(stand_in, tokenizer):
    engine, _ = _written(tokenizer)
    expected = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "enable_prefix_caching": True}
    assert stand_in.model == {"model": str(BASE / "language"), **expected}
    assert (engine.block_size, engine.end_ids) == (7, (2,))


def test_mapping_only_an_lmm_is_loaded_without_room_for_pictures(stand_in, tokenizer):
    VllmEngine(CONFIG, str(BASE), tokenizer)
    assert stand_in.model["limit_mm_per_prompt"] == {"image": 0, "video": 0}


def test_mapping_only_each_turn_has_its_own_seed_and_prompts_go_as_token_ids(stand_in, tokenizer):
    _written(tokenizer)
    assert [settings["seed"] for settings in stand_in.settings] == [11, 2**62]
    assert stand_in.prompts == [{"prompt_token_ids": [1, 4]}] * 2


def test_mapping_only_role_marks_inside_a_turn_stay_visible_and_every_stop_is_given(stand_in, tokenizer):
    _written(tokenizer)
    expected = {"skip_special_tokens": False, "stop_token_ids": [2, 5], "stop": ["[/INST]"], "max_tokens": 9, "logprobs": 0}
    expected |= {"temperature": 0.7, "top_p": 0.8}
    assert {name: stand_in.settings[0][name] for name in expected} == expected


@pytest.mark.parametrize(
    ("reason", "stop", "tokens", "finish"),
    [("stop", 2, 5, "stop"), ("stop", None, 5, "stop"), ("stop", "[/INST]", None, "stop"), ("length", None, 6, "length")],
)
def test_mapping_only_the_end_is_not_counted(stand_in, tokenizer, reason, stop, tokens, finish):
    stand_in.ends = (reason, stop)
    (block,) = _written(tokenizer)[1]
    expected = len(tokenizer("two plus five", add_special_tokens=False)["input_ids"]) if tokens is None else tokens
    assert [(one.tokens, one.finish_reason, one.logprob) for one in block] == [(expected, finish, -1.5)] * 2


def test_mapping_only_a_turn_that_vllm_gives_up_is_an_error(stand_in, tokenizer):
    stand_in.ends = ("abort", None)
    with pytest.raises(RuntimeError, match="abort"):
        _written(tokenizer)


def test_a_missing_package_is_named_with_what_else_there_is(monkeypatch, tokenizer):
    real = builtins.__import__

    def without(name, *rest):
        if name == "vllm":
            raise ImportError("No module named 'vllm'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="pip install vllm .*kind: transformers, or kind: endpoint"):
        VllmEngine(CONFIG, str(BASE), tokenizer)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_itself_writes_greedy_turns_that_end(tokenizer):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    engine = VllmEngine(VllmEngineConfig(kind="vllm", gpu_memory=0.2), str(BASE / "language"), tokenizer)
    greedy = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, stop_ids=(2,))
    ((one, two),) = engine.complete([REQUESTS], greedy)
    assert one.text == two.text != ""
    assert one.finish_reason == "stop"
    assert "<|end|>" not in one.text
    assert one.logprob is not None and one.logprob < 0
