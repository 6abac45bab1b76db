"""Sentence embeddings by a sentence-transformers model."""

from collections.abc import Sequence

import numpy as np

from data.trees.engine import Embedder


def load_embedder(name: str, batch_size: int = 64) -> Embedder:
    """Loads a sentence-transformers model, on the GPU where there is one.

    Args:
        name: A folder, or a name on the hub.
        batch_size: Texts embedded at once.

    Raises:
        ValueError: There is no such model, or it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name)
    # Whatever is wrong with a folder or with the way to the hub, the libraries below raise many kinds of errors for.
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"tree.dedup.embeddings: {name} could not be loaded as a sentence-transformers model ({type(error).__name__}: {error}); "
            "give a folder or a name on the hub, states for the model's own, or none to compare spelling only"
        ) from error

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32).reshape(len(texts), -1)

    return embed
