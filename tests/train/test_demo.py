"""The demo, in miniature: a few steps of each way on the shipped base."""

import json

import pytest

from data.readers import read
from train.cli import main
from train.demo import Demo, Way

WAY = Way(name="sa_proj", preset="sa_proj", learning_rate=1e-3, group="matched")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished demo of two steps a way."""
    home = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--output", str(home), "--steps", "2", "--test-size", "6"]) == 0
    return home


def test_the_demo_ends_in_a_self_contained_report(folder):
    page = (folder / "report" / "report.html").read_text()
    assert 'src="http' not in page
    rows = json.loads((folder / "report" / "report.json").read_text())["rows"]
    assert [row["name"] for row in rows] == 2 * ["full", "full + trees", "sa_proj", "mlp_gate_up"]


def test_the_tree_corpus_is_an_ordinary_text_source(folder):
    dialogues = read(folder / "trees" / "dialogues.json", "llava")
    assert len(dialogues) > 20
    assert not any(one.images for one in dialogues)


def test_only_the_way_with_trees_sees_the_corpus(folder):
    data = {path.parent.name: json.loads(path.read_text())["data"] for path in (folder / "ways").glob("*/run.json")}
    with_trees = {name for name, described in data.items() if "dialogues.json" in json.dumps(described)}
    assert with_trees == {name for name in data if "trees" in name}
    assert with_trees


def test_a_second_demo_keeps_what_is_finished(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "ways").glob("*/summary.json")}
    assert main(["demo", "--output", str(folder), "--steps", "2", "--test-size", "6"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "ways").glob("*/summary.json")}


def test_ctrl_c_keeps_finished_parts_and_says_how_to_go_on(folder, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Demo, "tune", interrupted)
    assert main(["demo", "--output", str(folder), "--steps", "2", "--test-size", "6"]) == 75
    assert "the same command goes on" in capsys.readouterr().err


def test_other_settings_are_tuned_anew(folder, monkeypatch):
    import train.run

    def trained(recipe):
        raise RuntimeError(f"tuned with {recipe.train.steps} steps")

    monkeypatch.setattr(train.run, "train", trained)
    with pytest.raises(RuntimeError, match="tuned with 3 steps"):
        Demo(folder=folder, steps=3, test_size=6).tune(WAY)
