"""The command line's frame: help, exit codes, launcher words."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from train import cli

ROOT = Path(__file__).parents[2]


def fake(monkeypatch: pytest.MonkeyPatch, problem: BaseException | None = None) -> list[object]:
    """Puts a command "fake" in the table that keeps what it was called with, then raises."""
    calls: list[object] = []

    def run(arguments: object) -> int:
        calls.append(arguments)
        if problem is not None:
            raise problem
        return 0

    module = types.ModuleType("fake_command")
    module.add_arguments = lambda parser: parser.add_argument("words", nargs="*", default=[])  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(cli.COMMANDS, "fake", cli.Command(help="test", example="perennial fake", module="fake_command"))
    monkeypatch.delenv("PERENNIAL_DEBUG", raising=False)
    return calls


@pytest.mark.parametrize(
    ("problem", "code", "told"),
    [
        (ValueError("too big"), 2, "perennial: too big"),
        (FileNotFoundError("x.json does not exist"), 2, "perennial: x.json does not exist"),
        (RuntimeError("broke"), 1, "perennial: RuntimeError: broke"),
        (FloatingPointError("nan"), 1, "perennial: FloatingPointError: nan"),
        (KeyboardInterrupt("the same command goes on"), 75, "stopped; the same command goes on"),
        (KeyboardInterrupt(), 1, "stopped"),
    ],
)
def test_a_problem_becomes_one_message_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: BaseException, code: int, told: str
) -> None:
    fake(monkeypatch, problem)
    assert cli.main(["fake"]) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_debugging_shows_where_a_problem_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, ValueError("too big"))
    monkeypatch.setenv("PERENNIAL_DEBUG", "1")
    with pytest.raises(ValueError, match="too big"):
        cli.main(["fake"])


def test_the_launchers_rank_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake(monkeypatch)
    assert cli.main(["--local_rank=1", "fake", "word"]) == 0
    assert calls[0].words == ["word"]  # type: ignore[attr-defined]


def test_overrides_are_told_from_other_words_wherever_they_stand() -> None:
    words = ["--train.steps", "3", "recipe.yaml", "--overwrite", "--model.preset=llm"]
    assert cli._split_overrides(words) == (["recipe.yaml", "--overwrite"], ["--train.steps", "3", "--model.preset=llm"])


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["trian"])
    assert stop.value.code == 2
    assert "'train'" in capsys.readouterr().err


def test_no_command_prints_help_as_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "perennial demo" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from train.cli import main
try: main(['--help'])
except SystemExit: print({'pydantic', 'torch', 'yaml'} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith("set()")


def test_every_command_in_the_table_has_a_module_with_help_that_gives_an_example() -> None:
    for name, command in cli.COMMANDS.items():
        path = ROOT / f"{command.module.replace('.', '/')}.py"
        assert path.is_file(), f"{name}: {path} is missing"
        assert command.example.startswith(f"perennial {name}")


def test_train_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "train", "--help"], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "120"}
    )
    assert done.returncode == 0
    assert "perennial train train/recipes/" in done.stdout
    assert "--section.key" in done.stdout
