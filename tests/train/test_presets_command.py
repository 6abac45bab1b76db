"""`perennial presets` prints what `model/presets.py` decides."""

import json
from pathlib import Path

import pytest

from train.cli import main


def test_json_lists_every_preset_with_its_tensors(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", str(tiny_folder), "--json", "--gpus", "2"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"full", "llm", "llm_blocks", "sa_proj", "sa_qkv", "mlp", "mlp_gate_up", "mlp_down", "projector", "vision"} <= set(rows)
    row = rows["sa_proj"]
    assert (row["tensors"], row["parameters"], len(row["names"])) == (8, 2 * 4 * 32 * 32, 8)
    assert row["share"] == pytest.approx(row["parameters"] / (rows["full"]["parameters"] + 64))  # the norm that nothing reads
    memory = row["memory"]
    assert set(memory) == {"zero0", "zero1", "zero2", "zero3"}
    assert memory["zero2"]["optimizer"] == 12 * 8192 // 2
    assert memory["zero0"]["total"] > memory["zero1"]["total"] > memory["zero2"]["total"] > memory["zero3"]["total"]


def test_a_table_line_says_the_same(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", str(tiny_folder), "--preset", "sa_proj[-1]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("sa_proj[-1]")).split()[1:3] == ["4", "4,096"]


def test_presets_that_do_not_fit_are_named(tiny: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from model.language import save

    assert main(["presets", str(save(*tiny, tmp_path / "text")), "--json"]) == 0
    out = capsys.readouterr()
    assert "projector" not in {row["preset"] for row in json.loads(out.out)}
    assert "not for this model: preset 'projector' matches no parameter of LlamaForCausalLM" in out.err


@pytest.mark.parametrize(("model", "words"), [("qwen3-vl-8", "did you mean 'qwen3-vl-8b'"), ("nothing/here", "is no model folder")])
def test_an_unknown_model_is_a_wrong_request(model: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", model]) == 2
    assert words in capsys.readouterr().err
