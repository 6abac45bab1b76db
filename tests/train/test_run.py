"""Whole training runs on the tiny model, under DeepSpeed on the CPU."""

import gc
import json
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.build import load_pair
from model.presets import select
from train.config import make_recipe
from train.run import RunResult, train

PRESETS = ("full", "llm", "projector", "vision", "sa_proj", "mlp_gate_up")


def run(folder: Path, base: Path, data: Path, *, preset: str = "full", model: dict[str, Any] | None = None, **settings: Any) -> RunResult:
    values = {
        "model": model or {"base": str(base), "preset": preset},
        "data": {"sources": [{"path": str(data)}]},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "steps": 1, "warmup_share": 0.0, "schedule": "constant", **settings},
        "output": str(folder),
    }
    return train(make_recipe(values), progress=False)


def losses(result: RunResult) -> list[float]:
    return [json.loads(line)["loss"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_pair(checkpoint)[0].state_dict())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    """Records about pictures with records of text, in one file."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> RunResult:
    """A finished run of 8 steps of llm with a checkpoint every 3."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return run(folder, tiny_folder, data, preset="llm", steps=8, save_every=3, seed=3)


@pytest.mark.parametrize("preset", PRESETS)
def test_after_one_step_exactly_the_manifests_tensors_have_moved(tiny_folder: Path, data: Path, tmp_path: Path, preset: str) -> None:
    result = run(tmp_path / "run", tiny_folder, data, preset=preset)
    before, after = weights(tiny_folder), weights(result.checkpoint)
    manifest = {tensor["name"] for tensor in json.loads((result.folder / "trainable.json").read_text())["tensors"]}
    assert {name for name in before if not torch.equal(before[name], after[name])} == manifest
    assert manifest == set(select(load_pair(tiny_folder)[0], preset))


def test_the_loss_is_finite_and_falls(finished: RunResult) -> None:
    found = losses(finished)
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0] - 0.5


def test_metrics_hold_a_line_for_each_step(finished: RunResult) -> None:
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    plain = {"step", "seconds", "loss", "learning_rate", "grad_norm", "tokens", "images"}
    assert set(lines[0]) == plain | {"loss_by_source", "padding_share", "tokens_per_second", "images_per_second"}
    assert all(later["tokens"] > earlier["tokens"] for earlier, later in pairwise(lines))
    assert lines[0]["learning_rate"] == pytest.approx(1e-2)


def test_the_first_loss_is_the_models_own_over_the_same_tokens(finished: RunResult, tiny_folder: Path, data: Path) -> None:
    from data.collate import Collator
    from data.config import DataConfig
    from data.dataset import MixedDataset, load_sources
    from data.pictures import pictures_of
    from data.plan import Amount, make_plan

    model, processor = load_pair(tiny_folder)
    config = DataConfig.model_validate({"sources": [{"path": str(data)}]})
    (source,) = load_sources(config, processor.tokenizer, pictures_of(processor))
    dataset = MixedDataset([source], make_plan([source.source], [source.tokens], config, Amount(batch_size=8, steps=1), 3))
    batch = Collator(processor.tokenizer, pictures_of(processor))([dataset[position] for position in range(8)])
    with torch.no_grad():
        expected = model(**batch).loss.item()
    assert json.loads((finished.folder / "run.json").read_text())["loss"]["first"] == pytest.approx(expected, rel=1e-5)


def test_the_run_folder_is_complete(finished: RunResult) -> None:
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    model = {"config.json", "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "chat_template.jinja"}
    for step in (3, 6, 8):
        assert {f"checkpoints/step-{step}/{name}" for name in model} <= names
    assert {"config.yaml", "run.json", "metrics.jsonl", "trainable.json"} <= names
    assert not [name for name in names if "partial" in name]


def test_the_record_tells_what_ran(finished: RunResult, data: Path) -> None:
    record = json.loads((finished.folder / "run.json").read_text())
    assert (record["status"], record["steps"], record["seed"], record["checkpoint"]) == ("done", 8, 3, "checkpoints/step-8")
    manifest = json.loads((finished.folder / "trainable.json").read_text())
    assert record["trainable"]["sha256"] == manifest["sha256"]
    assert record["trainable"]["parameters"] == sum(tensor["count"] for tensor in manifest["tensors"]) == manifest["trainable_parameters"]
    assert record["data"]["sources"][0] | {"sha256": ""} == {
        "path": str(data),
        "sha256": "",
        "records": 16,
        "samples": 16,
        "left_out": {},
        "unused": 0,
        "repairs": {},
        "text_only": False,
        "weight": 1.0,
        "share": None,
        "epochs": 4.0,
        "licence": None,
        "provenance": None,
    }
    assert set(record["versions"]) >= {"python", "torch", "transformers", "deepspeed"}


def test_the_written_config_is_a_recipe_that_runs_again(finished: RunResult) -> None:
    from train.config import load_recipe

    assert load_recipe(finished.folder / "config.yaml").train.steps == 8


def test_the_checkpoint_is_a_plain_transformers_model_that_caches_again(finished: RunResult, tiny_folder: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(finished.checkpoint).eval()
    ours, _ = load_pair(finished.checkpoint)
    inputs = AutoProcessor.from_pretrained(finished.checkpoint)(text="<s><|user|>Who?<|end|><|assistant|>", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, ours(**inputs).logits)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny_folder, finished.checkpoint))
    assert after["text_config"]["use_cache"] is before["text_config"]["use_cache"] is True
    assert after.get("use_cache") == before.get("use_cache")


def test_two_runs_in_one_process_with_one_seed_give_bitwise_equal_weights(
    finished: RunResult, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    torch.rand(5)  # the global generator stands elsewhere
    again = run(tmp_path / "again", tiny_folder, data, preset="llm", steps=8, seed=3)
    first, second = weights(finished.checkpoint), weights(again.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_another_order(finished: RunResult, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", tiny_folder, data, preset="llm", seed=4)
    orders = [json.loads((one.folder / "run.json").read_text())["data"]["order_sha256"] for one in (finished, other)]
    assert orders[0] != orders[1]


def test_accumulating_micro_batches_gives_the_same_losses(finished: RunResult, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    parts = run(tmp_path / "parts", tiny_folder, data, preset="llm", steps=3, seed=3, micro_batch_size=4)
    one, other = losses(finished), losses(parts)
    assert other == pytest.approx(one[:3], rel=1e-4)


@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero3"])
def test_every_zero_stage_gives_the_same_losses(finished: RunResult, tiny_folder: Path, data: Path, tmp_path: Path, zero: str) -> None:
    staged = run(tmp_path / zero, tiny_folder, data, preset="llm", steps=3, seed=3, zero=zero)
    one, other = losses(finished), losses(staged)
    assert other == pytest.approx(one[:3], rel=1e-4)


def test_batches_of_text_train_the_whole_model_but_leave_tower_and_projector_alone(
    tiny_folder: Path, tmp_path: Path, make_data: Callable[..., Path]
) -> None:
    text = make_data(tmp_path / "text", with_images=0)
    before, after = weights(tiny_folder), weights(run(tmp_path / "run", tiny_folder, text, steps=2).checkpoint)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "lm_head.weight" in moved
    assert not [name for name in moved if "vision_tower" in name or "projector" in name]


def test_a_text_only_model_trains(tiny: tuple[Any, Any], tmp_path: Path, make_data: Callable[..., Path]) -> None:
    from model.language import save

    backbone = save(*tiny, tmp_path / "language")
    result = run(tmp_path / "run", backbone, make_data(tmp_path / "text", with_images=0), preset="llm", steps=2)
    assert load_pair(result.checkpoint)[0].config.model_type == "llama"


def test_an_assembly_trains_its_projector(tiny: tuple[Any, Any], tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    from model.language import save

    model = {"vision": str(tiny_folder), "language": str(save(*tiny, tmp_path / "language")), "preset": "projector"}
    before, after = weights(tiny_folder), weights(run(tmp_path / "run", tiny_folder, data, model=model).checkpoint)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}


def test_weights_are_saved_in_bf16_on_request(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = run(tmp_path / "run", tiny_folder, data, save_dtype="bf16").checkpoint
    assert {tensor.dtype for tensor in load_file(checkpoint / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(tiny: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    model, processor = tiny
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1; lower train\.learning_rate"):
        run(tmp_path / "run", tmp_path / "broken", data)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_finished_run_is_not_replaced_unasked(finished: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    from train.cli import main

    assert main(["train", str(finished.folder / "config.yaml")]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert finished.checkpoint.is_dir()


def test_a_folder_that_holds_no_run_is_never_emptied(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        run(tmp_path, tiny_folder, data)
    assert (tmp_path / "thesis.tex").exists()


def test_training_leaves_no_trace_in_the_environment_that_later_trainers_would_follow(finished: RunResult) -> None:
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ


def test_ctrl_c_leaves_its_mark_and_tells_what_is_kept(
    finished: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train import run as module
    from train.cli import main

    save = module.save_checkpoint

    def save_then_stop(*arguments: Any) -> Path:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", save_then_stop)
    words = ["train", str(finished.folder / "config.yaml"), "--output", str(tmp_path / "run")]
    assert main(words) == 1
    assert f"kept: {tmp_path}/run/checkpoints/step-3" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def test_engines_of_finished_runs_do_not_pile_up_in_memory(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    def engines() -> int:
        gc.collect()
        return sum(type(one).__name__ == "DeepSpeedEngine" for one in gc.get_objects())

    before = engines()
    for name in ("first", "second"):
        run(tmp_path / name, tiny_folder, data)
    assert engines() <= max(before, 1)


def test_after_a_sharded_run_models_load_whole(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", tiny_folder, data, zero="zero3")
    assert all(parameter.numel() for parameter in load_pair(tiny_folder)[0].parameters())
