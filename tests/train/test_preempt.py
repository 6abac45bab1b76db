"""Requests to stop are answered between two steps, once, with one state."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train import preempt, resume
from train.cli import RESUMABLE, main
from train.config import make_recipe
from train.run import train
from train.trainer import MixtureTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def values(folder: Path, base: Path, data: Path, **settings: Any) -> dict[str, Any]:
    common = {"learning_rate": 1e-2, "batch_size": 4, "steps": 4, "seed": 5}
    return {
        "model": {"base": str(base)},
        "data": {"sources": [{"path": str(data)}]},
        "train": common | settings,
        "output": str(folder),
    }


def signal_in_step(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MixtureTrainer.compute_loss

    def with_signal(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **options)

    monkeypatch.setattr(MixtureTrainer, "compute_loss", with_signal)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_behind_a_step_that_all_agreed_on_with_one_state(
    number: int, tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_in_step(1, number, monkeypatch)
    with pytest.raises(preempt.Stopped, match="stopped on request behind step 2; run the same command to go on"):
        train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-2"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def test_what_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_recipe(values(tmp_path / "whole", tiny_folder, data)), progress=False)
    with monkeypatch.context() as patch:
        signal_in_step(1, signal.SIGUSR1, patch)
        with pytest.raises(preempt.Stopped):
            train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)
    train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_the_command_tells_what_is_kept_and_ends_with_75(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_in_step(1, signal.SIGTERM, monkeypatch)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values(tmp_path / "run", tiny_folder, data)))
    assert main(["train", str(tmp_path / "recipe.yaml")]) == RESUMABLE
    told = capsys.readouterr().err
    assert f"kept: {tmp_path / 'run' / 'state' / 'step-2'}" in told
    assert "stopped on request behind step 2; run the same command to go on" in told


def test_a_second_signal_while_saving_does_not_break_the_save(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = resume.save

    def save_under_signals(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        return save(*arguments)

    monkeypatch.setattr(resume, "save", save_under_signals)
    signal_in_step(1, signal.SIGTERM, monkeypatch)
    with pytest.raises(preempt.Stopped):
        train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-2"]


def test_a_signal_while_loading_is_answered_behind_the_first_step(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import run as module

    load = module.load_model
    monkeypatch.setattr(module, "load_model", lambda recipe: (os.kill(os.getpid(), signal.SIGUSR1), load(recipe))[1])
    with pytest.raises(preempt.Stopped, match="behind step 1;"):
        train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)


def test_a_signal_in_the_last_step_lets_the_run_finish(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_in_step(4, signal.SIGTERM, monkeypatch)
    train(make_recipe(values(tmp_path / "run", tiny_folder, data)), progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in preempt.SIGNALS]
    with preempt.listening():
        assert [signal.getsignal(number) for number in preempt.SIGNALS] != before
    assert [signal.getsignal(number) for number in preempt.SIGNALS] == before


def test_an_inner_listener_keeps_what_the_outer_one_has_heard() -> None:
    with preempt.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        with preempt.listening():
            assert preempt.asked()
        assert preempt.asked()


def test_a_new_listener_has_heard_nothing() -> None:
    with preempt.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
    with preempt.listening():
        assert not preempt.asked()


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with preempt.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_to_every_process_of_a_job_leaves_those_that_read_pictures_alive(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = values(tmp_path / "run", tiny_folder, data, steps=4000)
    recipe.write_text(json.dumps(settings | {"data": settings["data"] | {"loader_workers": 1}}))
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    words = [sys.executable, "-m", "train", "train", str(recipe)]
    job = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        while job.poll() is None and not (metrics.is_file() and metrics.read_text()):
            time.sleep(0.1)
        os.killpg(job.pid, signal.SIGTERM)
        _, told = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == RESUMABLE, told.decode()
    assert resume.numbered(tmp_path / "run" / "state")
