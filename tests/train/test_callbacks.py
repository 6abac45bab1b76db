"""What a run shows: its lines, its bar, its trackers, its stop at a broken loss."""

import io
import json
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.flops import Costs, Work
from train import pace, progress, trackers, watch
from train.broken import Broken, broken
from train.config import make_recipe
from train.metrics import Metrics
from train.pace import Pace
from train.progress import Progress, described
from train.run import RunResult, train
from train.work import Amounts, work_of


class Clock:
    """Stands in for `time`: it goes on only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (pace, progress):
        monkeypatch.setattr(module, "time", found)
    return found


def at(step: int, last: int = 100) -> Any:
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=True, is_hyper_param_search=False)


def logs(loss: float, **others: float) -> dict[str, float]:
    return {"loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3} | others


def amounts_of(steps: int) -> Amounts:
    return Amounts(tokens=np.full(steps, 50), images=np.full(steps, 4), operations=np.full(steps, 2e12))


def run(folder: Path, base: Path, data: Path, *, reading: dict[str, Any] | None = None, **settings: Any) -> RunResult:
    values = {
        "model": {"base": str(base), "preset": "llm"},
        "data": {"sources": [{"path": str(data)}], "max_length": 512} | (reading or {}),
        "train": {"learning_rate": 1e-3, "batch_size": 4, "steps": 4, **settings},
        "output": str(folder),
    }
    return train(make_recipe(values), progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "finished", tiny_folder, data)


@pytest.fixture
def poisoned(tmp_path: Path, tiny: tuple[Any, Any]) -> Path:
    """A model that breaks at the digit 9, which record 15 (id 7) of the data alone holds."""
    model, processor = tiny
    (token,) = processor.tokenizer("9", add_special_tokens=False)["input_ids"][-1:]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = math.inf
    model.save_pretrained(tmp_path / "poisoned")
    processor.save_pretrained(tmp_path / "poisoned")
    return tmp_path / "poisoned"


# --- metrics ---


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_everything_that_a_step_tells(finished: RunResult, data: Path) -> None:
    wanted = {"step", "seconds", "loss", "loss_by_source", "learning_rate", "grad_norm", "tokens", "images", "padding_share"}
    assert set(lines_of(finished.folder)[0]) == wanted | {"tokens_per_second", "images_per_second"}


def test_a_run_counts_its_pictures(finished: RunResult) -> None:
    assert lines_of(finished.folder)[-1]["images"] == 8  # one epoch of 8 records with a picture, 8 without


def test_lines_behind_the_step_that_a_run_goes_on_from_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"step": step, "loss": 1.0 * step, "seconds": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join([*whole, '{"step": 4, "lo']))
    metrics = Metrics(path, Pace(amounts_of(9)))
    metrics.on_train_begin()
    metrics.on_step_begin(None, at(2), None)
    metrics.on_log(None, at(3), None, logs=logs(7.0))
    metrics.close()
    assert [line["loss"] for line in lines_of(tmp_path)] == metrics.losses == [1.0, 2.0, 7.0]


def test_a_line_that_a_crash_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "seconds": 1.0}\n{"step": 2, "lo')
    metrics = Metrics(tmp_path / "metrics.jsonl", Pace(amounts_of(9)))
    metrics.on_step_begin(None, at(2), None)
    metrics.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


def test_speeds_reach_the_callbacks_behind(tmp_path: Path) -> None:
    metrics, told = Metrics(None, Pace(amounts_of(9))), logs(1.0)
    metrics.on_step_begin(None, at(0), None)
    metrics.on_log(None, at(1), None, logs=told)
    assert told["tokens"] == 50


# --- speed ---


def test_speeds_are_those_of_the_last_steps_without_the_first(clock: Clock) -> None:
    measured = Pace(amounts_of(100), peak=1e13)
    measured.start(0)
    clock.now += 60  # the first step prepares everything
    measured.after(1)
    clock.now += 5.0
    assert measured.after(2)["tokens_per_second"] == 10.0
    for step in range(3, 81):
        clock.now += 0.5 if step > 40 else 5.0
        found = measured.after(step)
    assert found == {"tokens": 4000, "images": 320, "tokens_per_second": 100.0, "images_per_second": 8.0, "mfu": 0.4}


def test_speeds_of_a_run_that_goes_on_leave_out_what_was_done_before(clock: Clock) -> None:
    measured = Pace(amounts_of(100))
    measured.start(50)
    clock.now += 2
    assert measured.after(51)["tokens_per_second"] == 25.0


def test_labels_and_pictures_of_each_sample_are_counted(tiny: tuple[Any, Any], data: Path) -> None:
    from data.config import DataConfig
    from data.dataset import MixedDataset, load_sources
    from data.pictures import pictures_of
    from data.plan import Amount, make_plan

    model, processor = tiny
    config, pictures = DataConfig.model_validate({"sources": [{"path": str(data)}]}), pictures_of(processor)
    (source,) = load_sources(config, processor.tokenizer, pictures)
    dataset = MixedDataset([source], make_plan([source.source], [source.tokens], config, Amount(batch_size=4), 0))
    work = work_of(source, model.config, pictures)
    samples = [dataset.sample(0, number) for number in range(len(source))]
    assert work.labels.tolist() == [int((sample["labels"] >= 0).sum()) for sample in samples]
    assert work.patches.tolist() == [16 * len(sample["images"]) for sample in samples]
    assert Costs(tokens=1.0).of(work).sum() == source.tokens.sum()


@pytest.mark.parametrize("family", ["llava-siglip-qwen2", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_the_towers_work_is_what_the_processor_makes_of_a_picture(family: str, family_folder: Callable[[str], Path]) -> None:
    from data.pictures import pictures_of
    from model.build import load_pair
    from model.tower_work import tower_work

    model, processor = load_pair(family_folder(family))
    pictures, size = pictures_of(processor), (60, 90)
    pixels = pictures.inputs([[np.zeros((*size, 3), np.uint8)]])["pixel_values"]
    work: Work = tower_work(model.config, [size], pictures.tokens([size]))
    patch = model.config.vision_config.patch_size
    assert work.patches == (len(pixels) if family.startswith("qwen") else pixels.numel() // (3 * patch**2))


def test_a_run_on_a_known_chip_tells_its_share_of_the_peak(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "chip_peak", lambda: 1e12)
    (line,) = lines_of(run(tmp_path / "run", tiny_folder, data, steps=1).folder)
    assert 0 < line["mfu"] < 1


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_plain_line_comes_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("skill")
    shown.on_step_begin(None, at(0), None)
    for step in range(1, 101):
        clock.now += 1.0
        shown.on_log(None, at(step), None, logs=logs(2.5, tokens_per_second=1234.5, tokens=9, padding_share=0.031))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == ["skill 1/100", "skill 31/100", "skill 61/100", "skill 91/100", "skill 100/100"]
    assert told[1] == "skill 31/100, loss 2.500, 1,234 tokens/s, 3% padding, 0:01:09 left"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    shown = Progress("skill")
    shown.on_step_begin(None, at(0), None)
    shown.on_log(None, at(100), None, logs=logs(2.5))
    shown.close()
    assert "100/100" in terminal.getvalue() and "loss 2.500" in terminal.getvalue()


def test_a_run_in_one_go_shows_speeds_and_share_of_the_peak() -> None:
    told = described(logs(1.0, tokens=9, images=9, tokens_per_second=2e4, images_per_second=31.25, padding_share=0.2, mfu=0.4321))
    assert told == ["loss 1.000", "20,000 tokens/s", "31.2 images/s", "20% padding", "43.2% MFU"]


def test_a_run_without_pictures_does_not_count_them() -> None:
    assert described(logs(1.0, tokens=9, images=0, tokens_per_second=1.0, images_per_second=0.0)) == ["loss 1.000", "1 tokens/s"]


# --- trackers ---


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / trackers.FOLDER))
    found.Reload()
    return found


def test_tensorboard_shows_every_step_by_default(finished: RunResult) -> None:
    shown = [(one.step, pytest.approx(one.value)) for one in events(finished.folder).Scalars("train/loss")]
    assert shown == [(line["step"], line["loss"]) for line in lines_of(finished.folder)]


def test_tensorboard_shows_losses_by_source_with_speeds(finished: RunResult) -> None:
    assert {"train/loss/records", "train/tokens_per_second", "train/padding_share"} <= set(events(finished.folder).Tags()["scalars"])


def test_tensorboard_shows_the_recipe(finished: RunResult) -> None:
    (text,) = events(finished.folder).Tensors("recipe/text_summary")
    assert b"batch_size: 4" in text.tensor_proto.string_val[0]


def test_tensorboard_hides_what_a_run_does_again(tmp_path: Path, tiny_folder: Path) -> None:
    recipe = make_recipe({"model": {"base": str(tiny_folder)}, "output": str(tmp_path)})
    for first, loss in ((0, 1.0), (2, 5.0)):
        shown = trackers.TensorBoard(recipe)
        arguments = SimpleNamespace(to_json_string=lambda: "{}")
        shown.on_step_begin(arguments, at(first), None)
        for step in range(first + 1, 5):
            shown.on_log(arguments, at(step), None, logs=logs(loss))
        shown.close()
    assert [one.value for one in events(tmp_path).Scalars("train/loss")] == [1.0, 1.0, 5.0, 5.0]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    tmp_path: Path, tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ValueError, match=r"train\.trackers: wandb is not installed; pip install wandb"):
        run(tmp_path / "run", tiny_folder, data, trackers=["tensorboard", "wandb"])
    assert not (tmp_path / "run").exists()


def test_without_trackers_no_folder_is_written(tmp_path: Path, tiny_folder: Path, data: Path) -> None:
    assert not (run(tmp_path / "run", tiny_folder, data, steps=1, trackers=[]).folder / trackers.FOLDER).exists()


# --- a broken loss ---


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_broken_from_the_first_step_on(loss: float) -> None:
    assert broken(loss, 1.0, deque(), 5.0) == f"the loss is {loss}"


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_a_gradient_norm_that_is_no_number_is_broken(norm: float) -> None:
    assert "the gradient norm is" in str(broken(1.0, norm, deque(), 5.0))


@pytest.mark.parametrize(("seen", "loss", "expected"), [(16, 6.01, True), (16, 5.99, False), (15, 99.0, False)])
def test_a_leap_above_the_median_is_broken_once_enough_was_seen(seen: int, loss: float, expected: bool) -> None:
    assert (broken(loss, 1.0, deque([1.0] * seen), 5.0) is not None) is expected


def test_a_leap_is_fine_where_the_recipe_says_so() -> None:
    assert broken(99.0, 1.0, deque([1.0] * 64), None) is None


def test_a_poisoned_record_is_named(tmp_path: Path, poisoned: Path, data: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step \d; lower train\.learning_rate, or remove .*offending\.json"):
        run(tmp_path / "run", poisoned, data)
    found = json.loads((tmp_path / "run" / "offending.json").read_text())
    assert {"source": str(data), "record": 15, "id": "7"}.items() <= next(one for one in found["records"] if one["record"] == 15).items()
    assert found["loss"] == "nan"


def test_the_records_named_are_those_of_the_step_alone(tmp_path: Path, poisoned: Path, data: Path, finished: RunResult) -> None:
    with pytest.raises(FloatingPointError):
        run(tmp_path / "run", poisoned, data)
    found = json.loads((tmp_path / "run" / "offending.json").read_text())
    seen = [0, *(line["tokens"] for line in lines_of(finished.folder))]  # the same order of the same data
    assert [one["row"] for one in found["records"]] == [0, 1, 2, 3]
    assert sum(one["tokens"] for one in found["records"]) == seen[found["step"]] - seen[found["step"] - 1]


def test_all_samples_of_packed_rows_are_named(tmp_path: Path, poisoned: Path, data: Path) -> None:
    with pytest.raises(FloatingPointError):
        run(tmp_path / "run", poisoned, data, batch_size=2, steps=1, epochs=1, reading={"packing": {"length": 256}, "max_length": None})
    found = json.loads((tmp_path / "run" / "offending.json").read_text())
    rows = [one["row"] for one in found["records"]]
    assert len(rows) > 2 and set(rows) == {0, 1}
    assert 15 in [one["record"] for one in found["records"]]


def test_the_checkpoint_before_is_kept_with_words_on_how_to_begin_from_it(tmp_path: Path, poisoned: Path, data: Path) -> None:
    with pytest.raises(FloatingPointError) as problem:
        run(tmp_path / "run", poisoned, data, save_every=1, seed=2)
    step = json.loads((tmp_path / "run" / "offending.json").read_text())["step"]
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept == [f"step-{number}" for number in range(1, step)]
    assert f"model.base: {tmp_path}/run/checkpoints/step-{step - 1}" in str(problem.value)


def test_every_process_stops_at_a_leap_but_one_writes(tmp_path: Path) -> None:
    for writes in (True, False):
        plan = SimpleNamespace(batch_size=1, row=lambda _: [])
        guard = Broken(SimpleNamespace(plan=plan, sources=()), tmp_path / str(writes), max_rise=1.0, writes=writes)  # type: ignore[arg-type]
        for step in range(20):
            guard.on_log(None, at(step), None, logs=logs(1.0))
        with pytest.raises(FloatingPointError, match=r"the loss is 3, more than train\.max_rise 1 above 1, .* raise train\.max_rise"):
            guard.on_log(None, at(21), None, logs=logs(3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["True"]


def test_a_run_that_goes_on_forgets_the_records_of_its_earlier_stop(tmp_path: Path) -> None:
    (tmp_path / "offending.json").touch()
    Broken(None, tmp_path, max_rise=1.0, writes=True).on_train_begin()  # type: ignore[arg-type]
    assert not (tmp_path / "offending.json").exists()


def test_a_run_that_goes_on_remembers_the_losses_before(tmp_path: Path) -> None:
    first, second = (Broken(None, tmp_path, max_rise=1.0, writes=False) for _ in range(2))  # type: ignore[arg-type]
    for step in range(80):
        first.on_log(None, at(step), None, logs=logs(step / 100))
    second.remember(first.remembered())
    assert list(second._last) == [step / 100 for step in range(16, 80)]
