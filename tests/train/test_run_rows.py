"""Whole runs on packed rows, on rows of like length, on weighted turns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.config import make_recipe
from train.run import RunResult, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Callable[..., RunResult]:
    def start(path: Path, reading: dict[str, Any] | None = None, **settings: Any) -> RunResult:
        values = {
            "model": {"base": str(tiny_folder), "preset": "full"},
            "data": {"sources": [{"path": str(path)}], **(reading or {})},
            "train": {"learning_rate": 1e-2, "batch_size": 4, "steps": 4, "schedule": "constant", "warmup_share": 0.0, **settings},
            "output": str(tmp_path_factory.mktemp("runs") / "run"),
        }
        return train(make_recipe(values), progress=False)

    return start


def lines(result: RunResult) -> list[dict[str, float]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def losses(result: RunResult) -> list[float]:
    return [line["loss"] for line in lines(result)]


def weighted(path: Path, change: Callable[[dict[str, Any], int], Any]) -> Path:
    """The same records with `change` made to each."""
    records = json.loads(path.read_text())
    for number, record in enumerate(records):
        change(record, number)
    target = path.with_name(f"weighted-{abs(hash(str(records)))}.json")
    target.write_text(json.dumps(records))
    return target


def test_packed_rows_train_as_the_same_samples_padded_do(data: Path, run: Callable[..., RunResult]) -> None:
    # 16 samples: one step of all of them, packed into as few rows as they need.
    packed = run(data, {"packing": {"length": 128}}, steps=None, epochs=1.0, batch_size=1)
    rows = len(lines(packed))
    whole = run(data, {"packing": {"length": 128}}, steps=None, epochs=1.0, batch_size=rows)
    padded = run(data, steps=1, batch_size=16)
    assert 2 < rows < 16
    assert lines(whole)[0]["tokens"] == lines(padded)[0]["tokens"] == lines(packed)[-1]["tokens"]
    assert losses(whole) == pytest.approx(losses(padded), rel=1e-5)
    assert lines(whole)[0]["grad_norm"] == pytest.approx(lines(padded)[0]["grad_norm"], rel=1e-4)


def test_packed_micro_batches_add_up_to_the_packed_batch(data: Path, run: Callable[..., RunResult]) -> None:
    packing = {"packing": {"length": 128}}
    assert losses(run(data, packing, micro_batch_size=1)) == pytest.approx(losses(run(data, packing)), rel=1e-4)


def test_batches_of_like_length_train(data: Path, run: Callable[..., RunResult]) -> None:
    found = losses(run(data, {"group_by_length": True}))
    assert found[-1] < found[0]


def test_weights_that_are_all_alike_change_nothing(data: Path, run: Callable[..., RunResult]) -> None:
    half = weighted(data, lambda record, _: record.update(weight=0.5))
    assert losses(run(half)) == pytest.approx(losses(run(data)), rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_a_record_of_weight_2_counts_like_two_records(data: Path, run: Callable[..., RunResult], micro_batch_size: int | None) -> None:
    records = json.loads(data.read_text())
    once, twice = data.with_name("once.json"), data.with_name("twice.json")
    once.write_text(json.dumps([records[0] | {"weight": 2.0}, records[9]]))
    twice.write_text(json.dumps([records[0], records[0] | {"id": "again"}, records[9]]))
    one = run(once, batch_size=2, steps=1, micro_batch_size=micro_batch_size)
    two = run(twice, batch_size=3, steps=1, micro_batch_size=micro_batch_size)
    assert lines(one)[0]["loss"] == pytest.approx(lines(two)[0]["loss"], rel=1e-5)
    assert lines(one)[0]["grad_norm"] == pytest.approx(lines(two)[0]["grad_norm"], rel=1e-4)


def test_in_bf16_a_weighted_loss_is_the_mean_by_the_same_weights(data: Path, run: Callable[..., RunResult]) -> None:
    def weigh(record: dict[str, Any], number: int) -> None:
        record["weight"] = 0.3

    plain, weighed = (run(path, precision="bf16", steps=1, batch_size=16) for path in (data, weighted(data, weigh)))
    assert losses(weighed)[0] == pytest.approx(losses(plain)[0], rel=1e-5)


@pytest.mark.parametrize(("processes", "expected"), [(1, (4, 8)), (2, (4, 4)), (8, (4, 1)), (32, (1, 1))])
def test_on_any_number_of_processes_a_pass_takes_at_most_the_micro_batch(processes: int, expected: tuple[int, int]) -> None:
    from train.config import TrainConfig
    from train.rows import micro_batches

    assert micro_batches(TrainConfig(batch_size=32, micro_batch_size=5), processes) == expected


def test_a_batch_that_does_not_divide_among_processes_is_refused() -> None:
    from train.config import TrainConfig
    from train.rows import micro_batches

    with pytest.raises(ValueError, match=r"train\.batch_size 32 is not a multiple of 3 \(processes\)"):
        micro_batches(TrainConfig(batch_size=32), 3)
