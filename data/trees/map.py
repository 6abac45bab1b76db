"""Questions of a tree as points of a plane, beside those of another corpus."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.trees.config import ReportConfig
from data.trees.engine import Embedder
from data.trees.words import frequent_words

OURS, REFERENCE = 0, 1
LONGEST_TEXT = 160  # characters of a question on the map
DIMENSIONS = 50  # that t-SNE gets, as its authors advise
PERPLEXITY = 30.0  # at most; a third of the neighbours where there are fewer points
FEWEST_POINTS = 5  # for t-SNE; fewer are laid out by their two principal components
MOST_CLUSTERS, CLUSTER_SIZE, TYPICAL, CLUSTER_WORDS = 12, 8, 3, 5
ROWS = 1024  # of a matrix of cosines at once


def embedding_map(questions: Sequence[str], reference_questions: Sequence[str], embed: Embedder, config: ReportConfig) -> dict[str, Any]:
    """Lays out questions by t-SNE, as the paper does (arXiv 2406.11354); says how near the two corpora lie.

    Distances between groups on the map mean little; the cosines, which are of the vectors themselves, do.

    Args:
        questions: Ours, at least one.
        reference_questions: The other corpus'; may be empty.
        embed: Texts to unit vectors.
        config: How many of each are drawn; the seed that draws them and lays them out.

    Returns:
        Ready for JSON: `points` [n][2]; for each point `corpus` (0 ours, 1 the reference) with `texts` (shortened); `shown`, `of`: points,
        questions of the two corpora; `perplexity` (None: two principal components), `seed`; `nearest`: mean cosine to the nearest
        question, None where there is none; `clusters`: k-means over both, largest first, each with counts, words, typical questions.

    Raises:
        ValueError: There is no question, or the vectors are not finite numbers [questions, dimension].
    """
    if not questions:
        raise ValueError("a map needs at least one question, got none; leave it out for an empty tree")
    corpora = [_drawn(questions, config, OURS), _drawn(reference_questions, config, REFERENCE)]
    texts = [text for corpus in corpora for text in corpus]
    corpus = np.repeat([OURS, REFERENCE], [len(one) for one in corpora])
    vectors = np.asarray(embed(texts), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise ValueError(
            f"expected {len(texts)} vectors of finite numbers, got an array {list(vectors.shape)}; check tree.dedup.embeddings"
        )
    points, perplexity = _layout(vectors, config.seed)
    ours, theirs = vectors[corpus == OURS], vectors[corpus == REFERENCE]
    return {
        "points": [[round(x, 3), round(y, 3)] for x, y in points.tolist()],
        "corpus": corpus.tolist(),
        "texts": [shortened(text) for text in texts],
        "shown": {"ours": len(ours), "reference": len(theirs)},
        "of": {"ours": len(questions), "reference": len(reference_questions)},
        "perplexity": perplexity,
        "seed": config.seed,
        "nearest": {
            "ours_to_reference": _nearest(ours, theirs),
            "reference_to_ours": _nearest(theirs, ours),
            "within_ours": _nearest(ours, None),
            "within_reference": _nearest(theirs, None),
        },
        "clusters": _clusters(vectors, texts, corpus, config.seed),
    }


def shortened(text: str) -> str:
    """A text on one line, cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _drawn(questions: Sequence[str], config: ReportConfig, corpus: int) -> list[str]:
    if len(questions) <= config.map_points:
        return list(questions)
    rng = np.random.default_rng([config.seed, corpus])
    return [questions[at] for at in np.sort(rng.choice(len(questions), config.map_points, replace=False))]


def _layout(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, float | None]:
    """Places float32 [n, 2], then the perplexity, None where t-SNE was not used."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    places = np.zeros((len(vectors), 2), np.float32)
    spread = float(np.ptp(vectors, axis=0).max())
    if spread == 0.0:  # one point, or the same point over and over
        return places, None
    components = min(DIMENSIONS, *vectors.shape)
    reduced = PCA(components, svd_solver="randomized" if components == DIMENSIONS else "full", random_state=seed).fit_transform(vectors)
    places[:, : min(2, components)] = reduced[:, :2]
    if len(vectors) < FEWEST_POINTS:
        return places, None
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = places / np.std(places[:, 0]) * 1e-4  # the scale from which sklearn's own start goes out
    return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced), round(perplexity, 2)


def _nearest(vectors: np.ndarray, others: np.ndarray | None) -> float | None:
    """Mean cosine of each vector to the nearest of the others; with None, of its own kind without itself."""
    among = vectors if others is None else others
    if len(vectors) == 0 or len(among) < (2 if others is None else 1):
        return None
    best = []
    for start in range(0, len(vectors), ROWS):
        cosines = vectors[start : start + ROWS] @ among.T
        if others is None:
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -np.inf
        best.append(cosines.max(axis=1))
    return round(float(np.concatenate(best).mean()), 4)


def _clusters(vectors: np.ndarray, texts: Sequence[str], corpus: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Groups of questions of both corpora; too few different questions make no group."""
    from sklearn.cluster import KMeans

    number = min(MOST_CLUSTERS, len(np.unique(vectors, axis=0)) // CLUSTER_SIZE)
    if number < 2:
        return []
    found = KMeans(number, n_init=4, random_state=seed).fit(vectors)
    distances = np.linalg.norm(vectors - found.cluster_centers_[found.labels_], axis=1)
    clusters = []
    for label in range(number):
        inside = np.flatnonzero(found.labels_ == label)
        near = inside[np.lexsort((distances[inside], corpus[inside]))].tolist()  # ours first, each kind from the middle outwards
        ours = int(np.count_nonzero(corpus[inside] == OURS))
        clusters.append(
            {
                "ours": ours,
                "reference": len(near) - ours,
                "words": list(frequent_words((texts[at] for at in near), CLUSTER_WORDS)),
                "typical": list(dict.fromkeys(shortened(texts[at]) for at in near))[:TYPICAL],
            }
        )
    return sorted(clusters, key=lambda one: (-one["ours"], -one["reference"], one["typical"]))
