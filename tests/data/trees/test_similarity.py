"""The histogram from which a threshold is chosen."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.trees import similarity
from data.trees.similarity import draw_histogram, nearest


def test_each_text_is_compared_with_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_BLOCK", 16)
    vectors = np.random.default_rng(0).standard_normal((70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [-1.0] + [max(float(vectors[row] @ vectors[other]) for other in range(row)) for row in range(1, 70)]
    assert np.allclose(nearest(vectors), expected, atol=1e-6)


def test_the_bins_hold_every_text_that_has_one_before_it(tmp_path: Path) -> None:
    draw_histogram([-1.0, 0.3, 0.96, 0.98, 1.0], tmp_path / "similarity.png")
    written = json.loads((tmp_path / "similarity.json").read_text())
    assert sum(written["counts"]) == written["texts"] == 4


def test_the_share_above_the_chosen_threshold_is_told(tmp_path: Path) -> None:
    draw_histogram([-1.0, 0.3, 0.96, 0.98, 1.0], tmp_path / "similarity.png", 0.965)
    assert json.loads((tmp_path / "similarity.json").read_text())["share_above"]["0.965"] == 0.5


def test_the_picture_is_a_png_file(tmp_path: Path) -> None:
    assert draw_histogram([0.3, 0.96], tmp_path / "similarity.png", 0.9).read_bytes().startswith(b"\x89PNG")


def test_no_similarities_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no similarities to draw"):
        draw_histogram([-1.0], tmp_path / "similarity.png")
