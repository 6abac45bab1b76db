"""Two ranks stop together, and others go on: as many, fewer, more, under another ZeRO stage."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from safetensors.torch import load_file

STEPS, STOPS = 6, 3


def trained(values: dict[str, Any], signalled: int | None = None) -> dict[str, Any]:
    """Trains; with a signal to one rank in its second step. Gives how it ended, in plain data."""
    from train import preempt
    from train.config import make_recipe
    from train.run import train
    from train.trainer import MixtureTrainer

    original = MixtureTrainer.compute_loss

    def with_signal(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == STOPS - 2 and int(os.environ.get("RANK", "0")) == signalled:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments, **options)

    MixtureTrainer.compute_loss = with_signal  # type: ignore[method-assign]
    try:
        return {"checkpoint": str(train(make_recipe(values), progress=False).checkpoint)}
    except preempt.Stopped as stop:
        return {"stopped": str(stop)}
    finally:
        MixtureTrainer.compute_loss = original  # type: ignore[method-assign]


def on_disks_of_their_own(values: dict[str, Any], elsewhere: str) -> str:
    from train.config import make_recipe
    from train.run import train

    if os.environ["RANK"] == "1":
        values = values | {"output": elsewhere}
    try:
        train(make_recipe(values), progress=False)
    except ValueError as error:
        return str(error)
    return "trained"


def share_of_five() -> list[float]:
    from types import SimpleNamespace

    from train.distributed import _share_of

    parameter = SimpleNamespace(ds_tensor=torch.zeros(3), ds_process_group=None)
    return _share_of(parameter, torch.arange(5.0)).tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def values(tmp_path: Path, tiny_folder: Path, data: Path) -> Callable[..., dict[str, Any]]:
    def make(name: str, **settings: Any) -> dict[str, Any]:
        common = {"learning_rate": 1e-2, "batch_size": 4, "steps": STEPS, "seed": 5, "warmup_share": 0.4}
        return {
            "model": {"base": str(tiny_folder)},
            "data": {"sources": [{"path": str(data)}]},
            "train": common | settings,
            "output": str(tmp_path / name),
        }

    return make


def losses(folder: str | Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_a_signal_to_one_rank_stops_both_behind_the_same_step_with_one_state(ranks: Ranks, values: Callable[..., dict[str, Any]]) -> None:
    asked = values("run")
    ended = ranks.run(trained, values=asked, signalled=1)
    assert ended == [{"stopped": f"stopped on request behind step {STOPS}; run the same command to go on"}] * 2
    states = list((Path(asked["output"]) / "state").iterdir())
    assert [path.name for path in states] == [f"step-{STOPS}"]
    assert json.loads((states[0] / "manifest.json").read_text())["processes"] == 2


@pytest.mark.parametrize(("zero", "precision"), [("zero0", "fp32"), ("zero2", "fp32"), ("zero2", "bf16"), ("zero3", "fp32")])
def test_as_many_ranks_go_on_to_the_bit(zero: str, precision: str, ranks: Ranks, values: Callable[..., dict[str, Any]]) -> None:
    kind = {"zero": zero, "precision": precision}
    whole, _ = ranks.run(trained, values=values("whole", **kind))
    ranks.run(trained, values=values("run", **kind), signalled=0)
    parts, _ = ranks.run(trained, values=values("run", **kind))
    assert losses(values("run")["output"]) == losses(values("whole")["output"])
    one, other = (load_file(Path(ended["checkpoint"]) / "model.safetensors") for ended in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_another_number_of_ranks_goes_on_to_rounding(
    first: int, then: int, zero: str, ranks: Ranks, values: Callable[..., dict[str, Any]]
) -> None:
    def on(processes: int, **arguments: Any) -> Any:
        return ranks.run(trained, **arguments)[0] if processes == 2 else trained(**arguments)

    on(first, values=values("whole", zero=zero))
    on(first, values=values("run", zero=zero), signalled=0)
    on(then, values=values("run", zero=zero))
    assert json.loads((Path(values("run")["output"]) / "run.json").read_text())["resumed_from"] == STOPS
    assert losses(values("run")["output"]) == pytest.approx(losses(values("whole")["output"]), rel=1e-5)


@pytest.mark.parametrize(("first", "then"), [("zero2", "zero3"), ("zero3", "zero1")])
def test_another_stage_goes_on_to_rounding(first: str, then: str, ranks: Ranks, values: Callable[..., dict[str, Any]]) -> None:
    ranks.run(trained, values=values("whole", zero=first))
    ranks.run(trained, values=values("run", zero=first), signalled=1)
    ranks.run(trained, values=values("run", zero=then))
    assert losses(values("run")["output"]) == pytest.approx(losses(values("whole")["output"]), rel=1e-5)


def test_a_rank_that_does_not_see_the_state_is_named(ranks: Ranks, values: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    trained(values("run"), signalled=0)
    told = ranks.run(on_disks_of_their_own, values=values("run"), elsewhere=str(tmp_path / "elsewhere"))
    assert all("process 1 does not see it, process 0 does; give an output on a disk that all machines share" in one for one in told)


def test_the_last_ranks_share_of_a_parameter_is_padded(ranks: Ranks) -> None:
    assert ranks.run(share_of_five) == [[0, 1, 2], [3, 4, 0]]
