"""Runs that were stopped go on as if they had not been."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from stopping import broken_at

from train.config import make_recipe
from train.run import RunResult, train

KILLED = Path(__file__).parents[1] / "support" / "killed.py"
OF_THIS_GROUP = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def values(folder: Path, base: Path, data: Path, **settings: Any) -> dict[str, Any]:
    common = {"learning_rate": 1e-2, "batch_size": 4, "steps": 6, "save_every": 2, "seed": 5, "warmup_share": 0.4}
    adapter = settings.pop("adapter", None)
    model = {"base": str(base), "preset": settings.pop("preset", "llm_blocks" if adapter else "full")}
    return {
        "model": model | ({"adapter": ADAPTERS[adapter]} if adapter else {}),
        "data": {"sources": [{"path": str(data)}], "max_length": 512} | settings.pop("reading", {}),
        "train": common | settings,
        "output": str(folder),
    }


def run(*arguments: Any, **settings: Any) -> RunResult:
    return train(make_recipe(values(*arguments, **settings)), progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "unbroken", tiny_folder, data)


@pytest.fixture
def stopped(tmp_path: Path, tiny_folder: Path, data: Path) -> Path:
    """Folder of a run that was stopped in its fourth step, behind the state of its second."""
    with broken_at(4):
        run(tmp_path / "run", tiny_folder, data)
    return tmp_path / "run"


def curve(folder: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.get(key) for key in ("step", "loss", "learning_rate", "grad_norm", "tokens")) for line in lines]


def same(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_run_goes_on_bit_by_bit_like_an_unbroken_one(stopped: Path, tiny_folder: Path, data: Path, unbroken: RunResult) -> None:
    assert [path.name for path in (stopped / "state").iterdir()] == ["step-2"]
    result = run(stopped, tiny_folder, data)
    assert curve(stopped) == curve(unbroken.folder)
    assert same(result.checkpoint, unbroken.checkpoint)
    record, whole = (json.loads((folder / "run.json").read_text()) for folder in (stopped, unbroken.folder))
    assert record["resumed_from"] == 2
    assert record["data"]["order_sha256"] == whole["data"]["order_sha256"]
    assert not (stopped / "state").exists()


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.3},
    "adalora": {"kind": "adalora", "rank": 2, "initial_rank": 4},
}


GROUPS = {"weight_decay": 0.1, "parts": {"projector": {"learning_rate": 1e-3}}}  # of parameters, three


@pytest.mark.parametrize(
    "settings",
    [
        *({"zero": zero, "precision": precision} for zero in ("zero0", "zero3") for precision in ("fp32", "bf16")),
        {"zero": "zero1", "precision": "bf16"},
        {"zero": "zero2", "precision": "bf16", "micro_batch_size": 2},
        {"zero": "zero2", "adapter": "lora"},
        *({"zero": zero, "adapter": "adalora"} for zero in ("zero0", "zero2")),
        *({"zero": f"zero{stage}"} | GROUPS for stage in range(4)),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_stage_precision_and_adapter_goes_on_bit_by_bit_as_well(
    settings: dict[str, Any], tmp_path: Path, tiny_folder: Path, data: Path
) -> None:
    """Stopped behind its fourth of eight steps: AdaLoRA's ranks are cut before and after that."""
    settings = {"steps": 8, "save_every": 4} | settings
    whole = run(tmp_path / "whole", tiny_folder, data, **settings)
    with broken_at(6):
        run(tmp_path / "run", tiny_folder, data, **settings)
    result = run(tmp_path / "run", tiny_folder, data, **settings)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_from"] == 4
    assert curve(tmp_path / "run") == curve(whole.folder)
    assert same(result.checkpoint, whole.checkpoint)


@pytest.mark.parametrize("change", [{"zero": "zero0"}, {"zero": "zero3"}, {"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_another_engine_goes_on_to_rounding_and_is_told(
    change: dict[str, Any], stopped: Path, tiny_folder: Path, data: Path, unbroken: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(values(stopped, tiny_folder, data, **change)), progress=True)
    name = next(iter(change))
    assert f"train.{name} was" in capsys.readouterr().err
    losses = [[line[1] for line in curve(folder)] for folder in (stopped, unbroken.folder)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_state_takes_no_more_than_its_share_of_bytes(stopped: Path) -> None:
    folder = stopped / "state" / "step-2"
    trainable = json.loads((folder / "trainable.json").read_text())["trainable_parameters"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.02 * 14 * trainable


def test_the_first_batch_after_a_stop_is_fetched_at_once(
    stopped: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.dataset import MixedDataset

    original, fetched = MixedDataset.__getitem__, []

    def noted(self: Any, row: int) -> Any:
        fetched.append(row)
        return original(self, row)

    monkeypatch.setattr(MixedDataset, "__getitem__", noted)
    run(stopped, tiny_folder, data)
    assert fetched[0] == 2 * 4


def test_never_begins_anew(stopped: Path, tiny_folder: Path, data: Path, unbroken: RunResult) -> None:
    result = run(stopped, tiny_folder, data, resume="never")
    assert json.loads((stopped / "run.json").read_text())["resumed_from"] is None
    assert same(result.checkpoint, unbroken.checkpoint)


def test_always_needs_something_to_go_on_from(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.resume is always, but .* holds no unfinished run"):
        run(tmp_path / "run", tiny_folder, data, resume="always")


def test_another_preset_is_refused_with_what_differs(stopped: Path, tiny_folder: Path, data: Path) -> None:
    with pytest.raises(
        ValueError, match=r"made by preset 'full', this run trains 'sa_proj': .*should train and do not.*model\.preset: full"
    ):
        run(stopped, tiny_folder, data, preset="sa_proj")
    assert (stopped / "state" / "step-2").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, r"train\.seed was 5, is 6"),
        ({"batch_size": 8}, r"train\.batch_size was 4, is 8"),
        ({"learning_rate": 1e-4}, r"train\.learning_rate was 0\.01, is 0\.0001"),
        ({"schedule": "linear"}, r"train\.schedule was cosine, is linear"),
        ({"precision": "bf16"}, r"train\.precision was fp32, is bf16"),
        ({"reading": {"max_length": 300}}, r"data\.max_length was 512, is 300"),
    ],
)
def test_another_order_is_refused_with_what_changed_it(
    stopped: Path, tiny_folder: Path, data: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(stopped, tiny_folder, data, **change)


def test_a_changed_file_is_refused_by_name(stopped: Path, tiny_folder: Path, data: Path) -> None:
    before = data.read_text()
    try:
        data.write_text(before.replace("plus two", "plus 2"))
        with pytest.raises(ValueError, match=rf"the content of {data} \(\d+ bytes, 16 records before; \d+, 16 now\)"):
            run(stopped, tiny_folder, data)
    finally:
        data.write_text(before)


def test_a_run_killed_with_9_five_times_is_bit_by_bit_like_an_unbroken_one(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    """At five random steps: in the forward pass, with half a file written, without a manifest, before the rename of the state."""
    steps = sorted(random.Random(7).sample(range(2, 12), 5))
    places = [f"{where}:{step}" for where, step in zip(["forward", "file", "manifest", "rename", "forward"], steps, strict=True)]
    settings = {"steps": 12, "save_every": 1, "zero": "zero2"}
    whole = run(tmp_path / "whole", tiny_folder, data, **settings)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(tmp_path / "run", tiny_folder, data, **settings)))
    environment = {name: value for name, value in os.environ.items() if name not in OF_THIS_GROUP}
    done = subprocess.run([sys.executable, str(KILLED), str(recipe), *places], capture_output=True, text=True, env=environment, check=True)
    assert [line for line in done.stdout.split() if line.lstrip("-").isdigit()] == ["-9"] * 5 + ["0"], done.stderr
    assert curve(tmp_path / "run") == curve(whole.folder)
    assert same(tmp_path / "run" / "checkpoints" / "step-12", whole.checkpoint)
    record, unbroken = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "run", whole.folder))
    assert record["resumed_from"] == steps[-1] - 1
    assert record["data"]["order_sha256"] == unbroken["data"]["order_sha256"]


def test_another_base_is_refused(stopped: Path, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    tensors = load_file(other / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="trained from had other weights than the one loaded now; give the old one"):
        run(stopped, other, data)


def damage(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[:-8] if how == "cut" else whole[:-8] + bytes(byte ^ 1 for byte in whole[-8:]))


@pytest.fixture
def with_two_states(tmp_path: Path, tiny_folder: Path, data: Path) -> Path:
    """Folder of a run that was stopped in its sixth step, behind states of its second and fourth."""
    with broken_at(6):
        run(tmp_path / "run", tiny_folder, data)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("weights-00000-000.safetensors", "changed"),
        ("weights-00000-000.safetensors", "cut"),
        ("random-00000.safetensors", "missing"),
        ("progress.json", "changed"),
        ("manifest.json", "missing"),
    ],
)
def test_a_damaged_state_is_named_and_the_one_before_serves(
    name: str, how: str, with_two_states: Path, tiny_folder: Path, data: Path, unbroken: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    file = with_two_states / "state" / "step-4" / name
    damage(file, how)
    result = run(with_two_states, tiny_folder, data)
    assert re.search(rf"{re.escape(str(file))} (is missing|has|was changed).*trying the state before", capsys.readouterr().err)
    assert json.loads((with_two_states / "run.json").read_text())["resumed_from"] == 2
    assert same(result.checkpoint, unbroken.checkpoint)
    assert curve(with_two_states) == curve(unbroken.folder)


def test_when_every_state_is_damaged_all_are_named(with_two_states: Path, tiny_folder: Path, data: Path) -> None:
    for step in (2, 4):
        damage(with_two_states / "state" / f"step-{step}" / "progress.json", "cut")
    with pytest.raises(
        ValueError, match=r"every saved state .* is damaged: .*step-4/progress\.json.*step-2/progress\.json.*never to begin"
    ):
        run(with_two_states, tiny_folder, data)


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_states_are_kept(keep: int, tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    with broken_at(6):
        run(tmp_path / "run", tiny_folder, data, save_every=1, keep_states=keep)
    kept = sorted(path.name for path in (tmp_path / "run" / "state").iterdir())
    assert kept == [f"step-{step}" for step in range(6 - keep, 6)]


@pytest.mark.parametrize("call", [1, 5, 6, 7])  # a first file, the manifest, the folder itself, the older state that goes
def test_a_crash_while_saving_loses_no_older_state(
    call: int, tmp_path: Path, tiny_folder: Path, data: Path, unbroken: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gives up at one of the renames of the state of step 4, with one state kept."""
    from train import resume

    original, renamed, save = Path.replace, [], resume.save

    def failing(self: Path, target: Any) -> Path:
        if "state" in self.parts and renamed is not None:
            renamed.append(target)
            if len(renamed) == call:
                raise OSError("no disk")
        return original(self, target)

    def save_under_fire(trainer: Any, going: Any, step: int) -> Any:
        if step == 4:
            monkeypatch.setattr(Path, "replace", failing)
        return save(trainer, going, step)

    monkeypatch.setattr(resume, "save", save_under_fire)
    try:
        run(tmp_path / "run", tiny_folder, data, keep_states=1)
    except OSError:
        assert renamed
    monkeypatch.undo()
    result = run(tmp_path / "run", tiny_folder, data, keep_states=1, resume="always" if len(renamed) >= call else "if_possible")
    assert same(result.checkpoint, unbroken.checkpoint)


def test_epochs_of_each_source_are_told_before_training(
    tmp_path: Path, tiny_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(values(tmp_path / "run", tiny_folder, data, steps=2, save_every=None)), progress=True)
    told = capsys.readouterr().err
    assert f"{data}: 16 samples, 0.50 epochs" in told
    assert told.index("0.50 epochs") < told.index("2/2")


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    from train.folders import only_writer

    with only_writer(tmp_path / "run"), pytest.raises(ValueError, match=r"another run writes into .*run; wait for it, stop it"):
        run(tmp_path / "run", tiny_folder, data)


def test_tasks_of_srun_that_know_no_ranks_are_refused(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match="srun started 2 tasks that do not know their ranks"):
        run(tmp_path / "run", tiny_folder, data)


def test_what_a_killed_process_left_half_written_is_swept_away(stopped: Path, tiny_folder: Path, data: Path) -> None:
    left = [stopped / "state" / ".step-3.partial", stopped / "checkpoints" / ".step-1.going"]
    for folder in left:
        folder.mkdir(parents=True)
    run(stopped, tiny_folder, data)
    assert not any(folder.exists() for folder in left)


def test_a_run_leaves_no_linear_of_its_own_behind(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    before = torch.nn.functional.linear
    run(tmp_path / "run", tiny_folder, data, zero="zero3", steps=1)
    assert torch.nn.functional.linear is before
