"""`perennial assemble` writes a model, `perennial chat` speaks with it."""

from pathlib import Path

import pytest

from data.images import ImageSource
from model.language import save
from train.cli import main


@pytest.fixture
def recipe(tiny: tuple, tiny_folder: Path, tmp_path: Path) -> Path:
    language = save(*tiny, tmp_path / "language")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {{vision: {tiny_folder}, language: {language}}}\noutput: {tmp_path / 'made'}\n")
    return path


def test_what_is_assembled_can_be_asked(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert main(["assemble", str(recipe), "--dtype", "fp32"]) == 0
    assert "LlavaForConditionalGeneration" in capsys.readouterr().err
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    words = ["chat", str(tmp_path / "made"), "--image", str(tmp_path / "red.png"), "--max-tokens", "4", "--ask", "What is it?"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == first


def test_a_dialogue_keeps_what_was_said(tiny: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.evaluate.generate as generate
    from train.chat import Dialogue

    asked = []
    monkeypatch.setattr(generate, "answer", lambda *_, **__: [generate.Answer(text=f"answer {len(asked)}", token_ids=())])
    monkeypatch.setattr(generate, "Request", lambda **values: asked.append(values["conversation"]) or values)
    dialogue = Dialogue(*tiny, images=[Path("a.png")], system="Be short.", max_tokens=3)
    assert [dialogue.ask("Who?"), dialogue.ask("Why?")] == ["answer 1", "answer 2"]
    assert [turn.text for turn in asked[1].turns] == ["Be short.", "<image>\nWho?", "answer 1", "Why?", ""]
    assert asked[1].images == (ImageSource("a.png"),)


def test_a_folder_that_holds_something_is_not_overwritten(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()
    assert main(["assemble", str(recipe)]) == 2
    assert "is not empty; give another folder" in capsys.readouterr().err


def test_a_missing_picture_is_a_wrong_request(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(tiny_folder), "--image", "nowhere.png", "--ask", "What?"]) == 2
    assert "nowhere.png does not exist" in capsys.readouterr().err
