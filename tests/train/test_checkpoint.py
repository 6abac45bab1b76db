"""Checkpoints: whole folders, folders of what trains alone, how many are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.build import load_pair
from train.config import make_recipe
from train.run import RunResult, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def base(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def run(folder: Path, base: Path, data: Path, model: dict[str, Any] | None = None, **settings: Any) -> RunResult:
    values = {
        "model": {"base": str(base)} | (model or {}),
        "data": {"sources": [{"path": str(data)}]},
        "train": {"learning_rate": 1e-2, "batch_size": 4, "steps": 3, "save_every": 2, "seed": 5, "warmup_share": 0.0} | settings,
        "output": str(folder),
    }
    return train(make_recipe(values), progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_pair(folder)[0].state_dict()


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


MODELS: dict[str, dict[str, Any]] = {
    "preset": {"preset": "sa_proj+projector"},
    "lora": {"preset": "llm_blocks+projector", "adapter": {"kind": "lora", "rank": 4}},
    "dora": {"preset": "llm_blocks", "adapter": {"kind": "dora", "rank": 4}},
    "adalora": {"preset": "llm_blocks", "adapter": {"kind": "adalora", "rank": 2, "initial_rank": 4}},
    "ia3": {"preset": "llm_blocks", "adapter": {"kind": "ia3"}},
}


@pytest.mark.parametrize(("kind", "zero"), [*((kind, "zero2") for kind in MODELS), ("preset", "zero3"), ("lora", "zero3")])
def test_a_checkpoint_of_what_trains_loads_as_the_whole_one_does(kind: str, zero: str, tmp_path: Path, base: Path, data: Path) -> None:
    whole, trainable = (run(tmp_path / name, base, data, MODELS[kind], checkpoints=name, zero=zero) for name in ("whole", "trainable"))
    on_the_way = [result.folder / "checkpoints" / "step-2" for result in (whole, trainable)]
    assert not (on_the_way[1] / "model.safetensors").exists()
    assert close(weights(on_the_way[0]), weights(on_the_way[1]))


def test_it_holds_two_bytes_a_parameter_in_bf16(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, MODELS["preset"], checkpoints="trainable", save_dtype="bf16")
    count = json.loads((result.folder / "run.json").read_text())["trainable"]["parameters"]
    saved = load_file(result.folder / "checkpoints" / "step-2" / "trainable.safetensors")
    assert sum(tensor.nbytes for tensor in saved.values()) == 2 * count


def test_the_last_checkpoint_is_whole(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, MODELS["preset"], checkpoints="trainable")
    assert {"model.safetensors", "config.json"} <= {path.name for path in result.checkpoint.iterdir()}


@pytest.mark.parametrize("zero", ["zero0", "zero2", "zero3"])
def test_a_whole_checkpoint_is_plain_safetensors_with_the_engines_own_weights(
    zero: str, tmp_path: Path, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import run as module

    monkeypatch.setattr(module.resume, "forget", lambda folder: None)
    folder = run(tmp_path / "run", base, data, MODELS["preset"], zero=zero).folder
    found, start = weights(folder / "checkpoints" / "step-2"), weights(base)
    masters = load_file(folder / "state" / "step-2" / "weights-00000-000.safetensors")
    trained = {key.removeprefix("master/"): tensor for key, tensor in masters.items() if key.startswith("master/")}
    assert trained
    assert all(torch.equal(found[name], trained.get(name, start[name])) for name in found)


def test_a_missing_base_is_named_with_what_to_do(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, MODELS["preset"], checkpoints="trainable")
    shutil.rmtree(base)
    with pytest.raises(
        FileNotFoundError, match=r"on top of .*base, which is not there; write its new place into model\.base of .*base\.json"
    ):
        load_pair(result.folder / "checkpoints" / "step-2")


def test_another_base_is_refused(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, MODELS["preset"], checkpoints="trainable")
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="which has other weights now than then"):
        load_pair(result.folder / "checkpoints" / "step-2")


def test_the_newest_checkpoints_are_kept(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, steps=5, save_every=1, keep_checkpoints=2)
    assert sorted(path.name for path in (result.folder / "checkpoints").iterdir()) == ["step-4", "step-5"]


def test_all_checkpoints_are_kept_where_nothing_is_said(tmp_path: Path, base: Path, data: Path) -> None:
    result = run(tmp_path / "run", base, data, steps=3, save_every=1)
    assert sorted(path.name for path in (result.folder / "checkpoints").iterdir()) == ["step-1", "step-2", "step-3"]


def test_tied_weights_are_saved_once_in_any_dtype(tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, LlamaConfig

    from train.checkpoint import save

    class Processor:
        def save_pretrained(self, folder: Path) -> None:
            """Nothing to save."""

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, tie_word_embeddings=True))
    names = []
    for dtype in ("fp32", "bf16"):
        folder = save(model, Processor(), tmp_path / dtype, dtype=dtype)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
    assert "lm_head.weight" not in names[1]
