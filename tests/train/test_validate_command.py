"""`perennial validate` from the command line, beside what training then leaves out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.cli import main
from train.config import make_recipe
from train.run import train

ASK = {"from": "human", "value": "Who?"}
TELL = {"from": "gpt", "value": "Me."}


@pytest.fixture
def half_bad(tmp_path: Path) -> Path:
    """Eight records, of which every second has no answer."""
    records = [{"id": number, "conversations": [ASK, TELL] if number % 2 else [ASK]} for number in range(8)]
    (tmp_path / "half.json").write_text(json.dumps(records))
    return tmp_path / "half.json"


def write_recipe(folder: Path, data: Path, base: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    values = {
        "model": {"base": str(base), "preset": "projector+llm"},
        "data": {"sources": [{"path": str(data)}]} | settings,
        "train": {"learning_rate": 1e-3, "batch_size": 4, "steps": 1},
        "output": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, values


def test_good_files_exit_0_with_the_terrariums_processor(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tiny_data)]) == 0
    told = capsys.readouterr().out
    assert "16 records, 0 bad, 16 samples" in told
    assert "not checked: " in told
    assert "training would start" in told


def test_too_many_bad_records_exit_1_and_are_written_down(half_bad: Path, tmp_path: Path) -> None:
    assert main(["validate", str(half_bad), "--output", str(tmp_path / "found")]) == 1
    report = json.loads((tmp_path / "found" / "report.json").read_text())
    assert not report["starts"]
    assert [(one["source"], one["record"], one["kind"]) for one in report["problems"]] == [
        (str(half_bad), record, "nothing_to_learn") for record in (0, 2, 4, 6)
    ]
    assert len((tmp_path / "found" / "quarantine.jsonl").read_text().splitlines()) == 4


def test_an_allowed_share_of_bad_records_exits_0(half_bad: Path) -> None:
    assert main(["validate", str(half_bad), "--data.max_bad_share", "0.5"]) == 0


@pytest.mark.parametrize(
    "words", [["nowhere.json"], ["recipe.yaml", "more.json"], ["{data}", "--format", "lava"], ["{data}", "--data.packin", "1"]]
)
def test_a_wrong_request_exits_2(words: list[str], tiny_data: Path) -> None:
    try:
        code = main(["validate", *[word.format(data=tiny_data) for word in words]])
    except SystemExit as stop:  # argparse's own
        code = int(stop.code or 0)
    assert code == 2


def test_a_recipe_is_read_with_its_own_model(half_bad: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, _ = write_recipe(tmp_path, half_bad, tiny_folder, max_bad_share=0.5, max_length=8)
    assert main(["validate", str(recipe), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kinds"]["over_long"]["count"] == 4


def test_training_leaves_out_exactly_what_validate_lists(half_bad: Path, tmp_path: Path, tiny_folder: Path) -> None:
    recipe, values = write_recipe(tmp_path, half_bad, tiny_folder, max_bad_share=0.5)
    assert main(["validate", str(recipe), "--output", str(tmp_path / "found")]) == 0
    result = train(make_recipe(values), progress=False)
    assert (result.folder / "quarantine.jsonl").read_text() == (tmp_path / "found" / "quarantine.jsonl").read_text()
    (source,) = json.loads((result.folder / "run.json").read_text())["data"]["sources"]
    assert (source["records"], source["samples"], source["left_out"]) == (8, 4, {"nothing_to_learn": 4})


def test_training_does_not_start_with_more_bad_records_than_allowed(half_bad: Path, tmp_path: Path, tiny_folder: Path) -> None:
    _, values = write_recipe(tmp_path, half_bad, tiny_folder)
    with pytest.raises(ValueError, match=r"4 of 8 records are bad \(4 nothing_to_learn\), more than data\.max_bad_share 0\.01"):
        train(make_recipe(values), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_share": 0.3}, "no source is with images"),
        ({"sources": [{"path": "{data}", "max_epochs": 0.5}]}, "max_epochs of data.sources allows 4"),
    ],
)
def test_a_plan_that_cannot_be_made_exits_1(
    settings: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "good.json"
    data.write_text(json.dumps([{"id": number, "conversations": [ASK, TELL]} for number in range(8)]))
    for source in settings.get("sources", []):
        source["path"] = str(data)
    recipe, values = write_recipe(tmp_path, data, tiny_folder, **settings)
    recipe.write_text(yaml.safe_dump(values | {"train": values["train"] | {"steps": 2}}))
    assert main(["validate", str(recipe)]) == 1
    assert message in capsys.readouterr().out


def test_a_run_refused_for_its_data_starts_once_they_are_repaired(half_bad: Path, tmp_path: Path, tiny_folder: Path) -> None:
    _, values = write_recipe(tmp_path, half_bad, tiny_folder)
    with pytest.raises(ValueError, match="4 of 8 records are bad"):
        train(make_recipe(values), progress=False)
    half_bad.write_text(json.dumps([one for one in json.loads(half_bad.read_text()) if len(one["conversations"]) == 2]))
    result = train(make_recipe(values), progress=False)
    assert not (result.folder / "quarantine.jsonl").exists()


def test_a_long_file_that_ends_early_stops_training_whatever_the_share(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    text = json.dumps([{"id": number, "conversations": [ASK, TELL]} for number in range(1000)])
    path.write_text(text[: len(text) // 3])
    assert main(["validate", str(path), "--data.max_bad_share", "0.9"]) == 1
    assert main(["validate", str(path), "--data.max_bad_share", "1"]) == 0


def test_a_file_that_ends_early_gives_what_stands_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([{"id": number, "conversations": [ASK, TELL]} for number in range(8)])[:-40])
    assert main(["validate", str(path), "--output", str(tmp_path / "found")]) == 1
    (problem,) = json.loads((tmp_path / "found" / "report.json").read_text())["problems"]
    assert (problem["record"], problem["kind"]) == (7, "broken_file")
