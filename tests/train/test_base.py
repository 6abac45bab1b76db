"""The base model's four stages, in miniature, through the real commands."""

import json

from safetensors.torch import load_file

from train.cli import main


def test_all_four_stages_run_and_leave_what_trees_and_tuning_need(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "base"
    assert main(["base", "--scale", "0.0005", "--output", str(output)]) == 0
    weights = {name: load_file(output / name / "model.safetensors") for name in (".", "aligned", "language")}
    assert {str(tensor.dtype) for tensors in weights.values() for tensor in tensors.values()} == {"torch.bfloat16"}
    assert sum(tensor.numel() for tensor in weights["."].values()) <= 4_500_000
    card = (output / "README.md").read_text()
    assert all(word in card for word in ("counting", "held_out_text", "Seed", "tower", "instruct"))
    runs = {stage: json.loads((tmp_path / "runs" / "base" / stage / "run.json").read_text()) for stage in ("tower", "align", "instruct")}
    assert {run["status"] for run in runs.values()} == {"done"}
    # Each stage trains what it says: the tower is the tower stage's, bit by bit, in what ships.
    tower = [key for key in weights["."] if "vision_tower" in key]
    assert tower
    assert all(weights["."][key].equal(weights["aligned"][key]) for key in tower)
    changed = [key for key in weights["."] if not weights["."][key].equal(weights["aligned"][key])]
    assert any("multi_modal_projector" in key for key in changed)
    assert any("language_model" in key for key in changed)
    before = (output / "model.safetensors").stat().st_mtime_ns
    (output / "probes.json").write_text(json.dumps({"count": 0.875}))
    # A second call trains nothing again: it stores and scores what is there.
    assert main(["base", "--scale", "0.0005", "--output", str(output)]) == 0
    assert (output / "model.safetensors").stat().st_mtime_ns > before
    assert json.loads((tmp_path / "runs" / "base" / "tower" / "run.json").read_text()) == runs["tower"]
    assert "| count | 87.5 |" in (output / "README.md").read_text()  # measured on these very weights, so it stays


def test_what_was_measured_on_other_weights_goes(tmp_path, monkeypatch, tiny):
    from train import base

    model, processor = tiny
    for stage in ("instruct", "align", "language"):
        model.save_pretrained(tmp_path / stage / "model")
        processor.save_pretrained(tmp_path / stage / "model")
    monkeypatch.setattr(base, "WORK", tmp_path)
    base.store(tmp_path / "out")
    (tmp_path / "out" / "probes.json").write_text("{}")
    base.store(tmp_path / "out")
    assert (tmp_path / "out" / "probes.json").exists()
    model.lm_head.weight.data += 1
    model.save_pretrained(tmp_path / "instruct" / "model")
    base.store(tmp_path / "out")
    assert not (tmp_path / "out" / "probes.json").exists()


def test_a_scale_that_makes_no_sense_is_refused(capsys):
    assert main(["base", "--scale", "0"]) == 2
    assert "--scale: got 0.0" in capsys.readouterr().err
