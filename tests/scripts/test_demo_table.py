"""The README's table over several demos."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("demo_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_demo(folder: Path, seed: int, after: float, rate: float = 1e-3) -> Path:
    row = {"group": "matched", "name": "full", "learning_rate": rate, "target_before": 0.1, "target_after": after}
    row |= {"text_change": -0.5, "visual_change": -0.25, "number_probability_before": 0.0, "number_probability_after": 0.4}
    report = {"rows": [row], "context": {"seed": seed}, "base": {"groups": {"held_out_text": 0.99, "held_out_visual": 0.93}}}
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps(report))
    return folder


def test_a_cell_is_the_mean_with_smallest_and_largest(script, tmp_path):
    folders = [write_demo(tmp_path / str(seed), seed, after) for seed, after in enumerate((0.8, 0.9, 1.0))]
    text = script.markdown(script.collect(folders))
    assert "| matched | full | 0.001 | 90 (80 to 100) | -50.0 | -25.0 | 40.00 |" in text
    assert "text 99.0 %, images 93.0 %" in text


def test_demos_of_other_ways_are_not_averaged(script, tmp_path):
    folders = [write_demo(tmp_path / "a", 0, 0.8), write_demo(tmp_path / "b", 1, 0.8, rate=2e-3)]
    with pytest.raises(ValueError, match="different ways"):
        script.collect(folders)


def test_an_unfinished_demo_is_named(script, tmp_path):
    with pytest.raises(FileNotFoundError, match="perennial demo --output"):
        script.collect([tmp_path])
