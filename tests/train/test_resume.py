"""Runs that were stopped go on as if they had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from train.config import make_recipe
from train.run import RunResult, train


def values(folder: Path, base: Path, data: Path, **settings: Any) -> dict[str, Any]:
    common = {"learning_rate": 1e-2, "batch_size": 4, "steps": 6, "save_every": 2, "seed": 5, "warmup_share": 0.4}
    return {
        "model": {"base": str(base), "preset": settings.pop("preset", "full")},
        "data": {"sources": [{"path": str(data)}], "max_length": 512} | settings.pop("reading", {}),
        "train": common | settings,
        "output": str(folder),
    }


def run(*arguments: Any, **settings: Any) -> RunResult:
    return train(make_recipe(values(*arguments, **settings)), progress=False)


def break_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the next run fail in the forward pass of a step."""
    import train.trainer as module

    original = module.MixtureTrainer.compute_loss

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(module.MixtureTrainer, "compute_loss", failing)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "unbroken", tiny_folder, data)


@pytest.fixture
def stopped(tmp_path: Path, tiny_folder: Path, data: Path) -> Path:
    """Folder of a run that was stopped in its fourth step, behind the state of its second."""
    with pytest.MonkeyPatch.context() as patch:
        break_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", tiny_folder, data)
    return tmp_path / "run"


def curve(folder: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in ("step", "loss", "learning_rate", "grad_norm", "tokens")) for line in lines]


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


@pytest.mark.parametrize("zero", ["zero0", "zero3"])
def test_other_stages_go_on_bit_by_bit_as_well(
    zero: str, tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", tiny_folder, data, zero=zero)
    with monkeypatch.context() as patch:
        break_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", tiny_folder, data, zero=zero)
    assert same(run(tmp_path / "run", tiny_folder, data, zero=zero).checkpoint, whole.checkpoint)


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
        ({"zero": "zero0"}, r"train\.zero was zero2, is zero0"),
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


def test_a_run_killed_with_9_goes_on_with_the_identical_order(tmp_path: Path, tiny_folder: Path, data: Path, unbroken: RunResult) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(tmp_path / "run", tiny_folder, data)))
    slow = "import time, train.trainer as t; f = t.MixtureTrainer.compute_loss\n"
    slow += "t.MixtureTrainer.compute_loss = lambda *a, **k: (time.sleep(1), f(*a, **k))[1]\n"
    code = slow + f"import sys; from train.cli import main; sys.exit(main(['train', {str(recipe)!r}]))"
    of_this_group = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in of_this_group}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "state").glob("step-*")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    result = run(tmp_path / "run", tiny_folder, data)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_from"] in (2, 4)
    assert curve(tmp_path / "run") == curve(unbroken.folder)
    assert same(result.checkpoint, unbroken.checkpoint)


def test_another_number_of_processes_is_refused_by_name(stopped: Path, tiny_folder: Path, data: Path) -> None:
    path = stopped / "state" / "step-2" / "position.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))
    with pytest.raises(ValueError, match="the number of processes was 2, is 1"):
        run(stopped, tiny_folder, data)


def test_epochs_of_each_source_are_told_before_training(
    tmp_path: Path, tiny_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(values(tmp_path / "run", tiny_folder, data, steps=2, save_every=None)), progress=True)
    told = capsys.readouterr().err
    assert f"{data}: 16 samples, 0.50 epochs" in told
    assert told.index("0.50 epochs") < told.index("2/2")
