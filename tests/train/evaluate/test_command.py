"""`perennial evaluate` with `perennial report`, from words to files."""

import json
from pathlib import Path

import pytest

from train.cli import main
from train.evaluate import command


def test_evaluate_prints_a_table_and_writes_the_evaluation(
    tiny_folder: Path, suite_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(tiny_folder), "--suite", str(suite_path), "--output", str(tmp_path / "out"), "--limit", "1", "--quiet"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "counting" in printed and "unparsed" in printed and "wrote" in printed
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["suite"] == "terrarium"


def test_report_reads_run_folders_and_writes_the_page(
    comparison: tuple[list[dict], dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, base = comparison
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "evaluation.json").write_text(json.dumps(base))
    folder = tmp_path / "tuned" / "evaluations" / "terrarium"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(runs[0]["evaluation"]))
    config = "model: {preset: full}\ntrain: {learning_rate: 0.002, batch_size: 8}\ndata: {text_share: null}\n"
    (tmp_path / "tuned" / "config.yaml").write_text(config)
    (tmp_path / "tuned" / "run.json").write_text(json.dumps({"steps": 9, "seconds": 4, "trainable": {"parameters": 10, "of": 40}}))
    words = ["report", str(tmp_path / "base"), str(tmp_path / "tuned"), "--output", str(tmp_path / "report"), "--target", "counting"]
    assert main(words) == 0
    assert "tuned" in capsys.readouterr().out
    row = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][0]
    assert (row["preset"], row["learning_rate"], row["steps"], row["trainable_parameters"], row["seconds"]) == ("full", 0.002, 9, 10, 6)
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize("line", ["evaluate nowhere --suite {suite}", "evaluate . --suite nowhere.yaml", "report a b"])
def test_a_wrong_request_is_one_message_with_exit_code_2(line: str, suite_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(suite=suite_path) for word in line.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith("perennial: ") and "Traceback" not in message and len(message.splitlines()) == 1


def test_a_run_folder_stands_for_its_last_checkpoint(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoints/step-{step}").mkdir(parents=True)
    assert command.find_checkpoint(str(tmp_path)).name == "step-100"
    assert command.default_output(tmp_path / "checkpoints" / "step-100", "mine") == tmp_path / "evaluations" / "mine"
