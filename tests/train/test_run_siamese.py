"""Siamese models through whole runs: what trains, with which rate, what is saved, loads, goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from arranged import FIRST_TEXT, arranged
from growing import write_tree
from safetensors.torch import load_file
from stopping import broken_at

from model.build import load_pair
from model.siamese import of
from train.config import make_recipe
from train.run import RunResult, train

KINDS: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "dora": {"rank": 4}, "adalora": {"rank": 2, "initial_rank": 4}, "ia3": {}}
IDS = torch.arange(5, 25).reshape(2, 10)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def recipe(folder: Path, base: Path, data: Path, *, kind: str = "lora", **settings: Any) -> dict[str, Any]:
    model = {"preset": "llm_blocks", "adapter": {"kind": kind} | KINDS[kind], "method": "siamese"} | settings.pop("model", {})
    reading = settings.pop("reading", {"sources": [{"path": str(data)}]})
    common = {"learning_rate": 1e-2, "batch_size": 8, "steps": 4, "warmup_share": 0.0, "schedule": "constant", "verify_frozen": True}
    return {"model": {"base": str(base)} | model, "data": reading, "train": common | settings, "output": str(folder)}


def run(folder: Path, *arguments: Any, **settings: Any) -> RunResult:
    return train(make_recipe(recipe(folder, *arguments, **settings)), progress=False)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def tensors(result: RunResult) -> dict[str, torch.Tensor]:
    """Adapter and gate of a run's last checkpoint."""
    found = load_file(result.checkpoint / "adapter" / "adapter_model.safetensors")
    return found | {f"gate.{name}": one for name, one in load_file(result.checkpoint / "siamese.safetensors").items()}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models of the runs of a test, as they are in memory."""
    from train import run as module

    models: list[Any] = []
    build = module.build_trainer

    def remembering(model: Any, *arguments: Any) -> Any:
        models.append(model)
        return build(model, *arguments)

    monkeypatch.setattr(module, "build_trainer", remembering)
    return models


@pytest.mark.parametrize("kind", KINDS)
def test_the_loaded_checkpoint_is_the_model_that_was_trained(
    tiny_folder: Path, data: Path, tmp_path: Path, kind: str, trained: list[Any]
) -> None:
    result = run(tmp_path / "run", tiny_folder, data, kind=kind, steps=8)
    loaded, _ = load_pair(result.checkpoint)
    assert of(loaded) is not None
    with torch.no_grad():
        expected = trained[0].eval()(input_ids=IDS).logits
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-6)
        plain = load_pair(tiny_folder)[0](input_ids=IDS).logits
    assert not torch.allclose(expected, plain, atol=1e-3)


def test_adalora_beside_its_base_cuts_its_ranks(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", tiny_folder, data, kind="adalora", steps=20)
    singular = [one for name, one in tensors(result).items() if "lora_E" in name]
    assert sum(int((one != 0).sum()) for one in singular) == 2 * len(singular)  # each began with 4


def test_adapters_and_gate_train_with_rates_of_their_own(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", tiny_folder, data, parts={"gate": {"learning_rate": 1e-3}})
    listed = json.loads((result.folder / "trainable.json").read_text())["tensors"]
    rates = {(one["group"], one["learning_rate"]) for one in listed}
    assert rates == {("language_model", 1e-2), ("gate", 1e-3)}
    assert [one["name"] for one in listed if one["group"] == "gate"] == ["siamese_gate.w_a", "siamese_gate.w_b"]


def test_the_gates_rate_is_the_one_that_it_steps_with(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    """In the first step the twin is the base, so that there is no gradient; of a first gradient in the second step, AdamW makes 0.744."""
    result = run(tmp_path / "run", tiny_folder, data, steps=2, parts={"gate": {"learning_rate": 3e-4}})
    expected = 3e-4 * 0.1 / (1 - 0.9**2) / (0.001 / (1 - 0.999**2)) ** 0.5
    torch.testing.assert_close(tensors(result)["gate.w_b"].abs().max(), torch.tensor(expected), rtol=1e-3, atol=0)


def test_the_gate_begins_at_its_bias(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    result = run(
        tmp_path / "run", tiny_folder, data, steps=1, model={"gate": {"initial_bias": 2.0}}, parts={"gate": {"learning_rate": 1e-4}}
    )
    torch.testing.assert_close(tensors(result)["gate.bias"], torch.full((32,), 2.0), rtol=0, atol=1.1e-4)


def test_the_loss_falls(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    losses = [line["loss"] for line in lines(run(tmp_path / "run", tiny_folder, data, steps=8))]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("other", [{"zero": "zero0"}, {"zero": "zero3"}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}])
def test_neither_stage_nor_accumulation_nor_checkpointing_changes_a_step(
    tiny_folder: Path, data: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    losses = [line["loss"] for line in lines(run(tmp_path / "run", tiny_folder, data))]
    again = [line["loss"] for line in lines(run(tmp_path / "again", tiny_folder, data, **other))]
    assert again == pytest.approx(losses, rel=2e-5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "tree", [3, 1, 2, 1])


def gate_alone(data: Path, tree: Path, trains: str = "gate") -> dict[str, Any]:
    return {"sources": [{"path": str(data)}, {"path": str(tree), "format": "tree", "trains": trains}], "text_share": None}


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> dict[str, Any]:
    """Records for all that trains, then records for the gate alone."""
    first, second = (str(make_data(tmp_path_factory.mktemp(name))) for name in ("first", "second"))
    return {"sources": [{"path": first}, {"path": second, "trains": "gate"}]}


OF_FIRST, OF_SECOND = [[0], [1]], [[2 * FIRST_TEXT], [2 * FIRST_TEXT + 1]]  # rows of a step


def test_a_source_for_the_gate_alone_leaves_the_adapter_where_it_is(
    tiny_folder: Path, data: Path, two_sources: dict[str, Any], tmp_path: Path
) -> None:
    moved = []
    for name, rows in (("first", OF_FIRST), ("second", OF_SECOND)):
        with arranged([rows]):
            result = run(tmp_path / name, tiny_folder, data, reading=two_sources, batch_size=2, steps=1)
        moved.append(any(one.any() for name, one in tensors(result).items() if "lora_B" in name))
    assert moved == [True, False]


def test_a_source_for_the_gate_alone_moves_the_gate(tiny_folder: Path, data: Path, two_sources: dict[str, Any], tmp_path: Path) -> None:
    """In the first step the twin is the base still, so the gate has nothing to choose from; only the second one can move it."""
    with arranged([OF_FIRST, OF_SECOND]):
        result = run(tmp_path / "run", tiny_folder, data, reading=two_sources, batch_size=2, steps=2)
    assert tensors(result)["gate.w_b"].any()


def test_a_gate_that_nothing_trains_alone_is_asked_for_by_name(tiny_folder: Path, data: Path, tree: Path, tmp_path: Path) -> None:
    values = recipe(tmp_path / "run", tiny_folder, data, reading=gate_alone(data, tree))
    for wrong in ({"method": "plain"}, {"gate": {"kind": "fixed"}}):
        with pytest.raises(ValueError, match="to train the gate alone, but this recipe has no gate that learns"):
            make_recipe(values | {"model": values["model"] | wrong})


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(tiny_folder: Path, data: Path, tmp_path: Path, kind: str) -> None:
    settings = {"kind": kind, "steps": 6, "save_every": 2, "parts": {"gate": {"learning_rate": 1e-3}}}
    whole = run(tmp_path / "whole", tiny_folder, data, **settings)
    with broken_at(4), pytest.raises(RuntimeError):
        run(tmp_path / "stopped", tiny_folder, data, **settings)
    again = run(tmp_path / "stopped", tiny_folder, data, **settings)
    assert [line["loss"] for line in lines(again)][-2:] == [line["loss"] for line in lines(whole)][-2:]
    expected = tensors(whole)
    assert all(torch.equal(one, expected[name]) for name, one in tensors(again).items())


def test_the_base_of_a_siamese_model_can_teach_it(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    held = [{"kind": "cross_entropy", "weight": 1e-3}, {"kind": "kl_to_base", "on": "all"}]
    results = [run(tmp_path / name, tiny_folder, data, steps=6, losses=losses) for name, losses in (("free", held[:1]), ("held", held))]
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.no_grad():
        base = load_pair(tiny_folder)[0](input_ids=ids).logits.softmax(-1)
        drift = [float((load_pair(one.checkpoint)[0](input_ids=ids).logits.softmax(-1) - base).abs().sum()) for one in results]
    assert drift[1] < 0.5 * drift[0]


def test_checkpoints_on_the_way_are_siamese_too(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", tiny_folder, data, save_every=2)
    assert of(load_pair(result.folder / "checkpoints" / "step-2")[0]) is not None


def test_a_siamese_model_is_not_tuned_further(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", tiny_folder, data, steps=1)
    with pytest.raises(ValueError, match="holds a siamese model, which no run tunes or grows further"):
        run(tmp_path / "again", result.checkpoint, data)


@pytest.mark.parametrize("file", ["siamese.safetensors", "adapter/adapter_model.safetensors"])
def test_a_folder_that_lacks_a_file_or_a_tensor_says_which(tiny_folder: Path, data: Path, tmp_path: Path, file: str) -> None:
    from safetensors.torch import save_file

    result = run(tmp_path / "run", tiny_folder, data, steps=1)
    path = result.checkpoint / file
    held = load_file(path)
    lost = next(iter(held))
    save_file({name: one for name, one in held.items() if name != lost} or {"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{path.name}: .*{lost.rpartition('.')[2]}"):
        load_pair(result.checkpoint)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
        load_pair(result.checkpoint)


def test_a_preset_outside_of_the_layers_is_refused(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a siamese model's base stays as it is; give a preset of the language model's layers alone"):
        run(tmp_path / "run", tiny_folder, data, model={"preset": "llm_blocks+projector"})
