"""Measures how long it takes to find texts of one meaning, how many are found, how the time grows.

    make bench NAME=dedup ARGS="--sizes 10000 100000"

Vectors lie in clusters of some two hundred around a common direction (cosines of about 0.5 within a cluster); a tenth of them are
planted beside an earlier one, with cosines on both sides of the threshold. Recall is counted on a sample of the planted ones by
comparing them with all before: of those that have a kept one above the threshold, the share that was dropped. `boundary` is what the
index itself tells, for duplicates right at the threshold. Beside it stand k-means cells (SemDeDup's way: only vectors of one cell are
compared): of those that have any earlier one above the threshold, the share that have one in their own cell. Then 100,000 texts of
some fifteen words go through the whole cascade, vectors given: in one group, then in ten thousand groups. One thread; seconds are
those of the core. Results: runs/bench/dedup.json.
"""

import argparse
import json
import math
import os
import string
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.trees.config import DedupConfig
from data.trees.dedup import Deduplicator
from data.trees.meaning import CHUNK, Meaning, beside

THRESHOLD = 0.975
DIMENSION = 256
BLOCK = 4096  # texts that arrive at once
GOALS = {"seconds": 60.0, "recall": 0.995, "exponent": 1.2, "cascade_seconds": 60.0}


def main() -> int:
    """Prints two tables, writes the JSON; exit code 1 when a goal is missed."""
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="vectors (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=100_000, help="texts of the whole cascade (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=1000, help="planted vectors compared with every one (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/dedup.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if min(*options.sizes, options.texts, options.sample) < 1000:
        parser.error("--sizes, --texts, --sample: expected 1000 or more each; fewer say little")
    with threadpool_limits(1):
        return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Runs both parts."""
    columns = ("seconds", "recall", "dropped", "boundary", "cells s", "cells recall")
    print(f"{'vectors':<10}" + "".join(f"{column:>14}" for column in columns))
    sizes: dict[int, dict[str, Any]] = {}
    for size in sorted(options.sizes):
        result = sizes[size] = compare(size, options.sample)
        shown = (f"{result['seconds']:.1f}", f"{result['recall']:.2%}", f"{result['dropped']:,}", share(result["boundary"]))
        print(f"{size:<10}" + "".join(f"{one:>14}" for one in (*shown, f"{result['cells s']:.1f}", f"{result['cells recall']:.2%}")))
    small, large = min(sizes), max(sizes)
    exponent = math.log(sizes[large]["seconds"] / sizes[small]["seconds"]) / math.log(large / small) if large > small else None
    if exponent is not None:
        print(f"seconds grow with the size to the power of {exponent:.2f} (goal: at most {GOALS['exponent']})")
    cascade = {name: whole_cascade(options.texts, groups) for name, groups in (("one group", 1), ("groups of ten", options.texts // 10))}
    for name, result in cascade.items():
        print(f"{options.texts} texts, {name}: {result['seconds']:.1f} s; {result['verdicts']}")
    record = {"sizes": sizes, "exponent": exponent, "cascade": cascade, "goals": GOALS}
    record |= {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "threshold": THRESHOLD, "dimension": DIMENSION}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    missed = any(result["recall"] < GOALS["recall"] for result in sizes.values())
    missed |= any(result["seconds"] > GOALS["seconds"] * max(1.0, size / 1e6) for size, result in sizes.items())
    missed |= any(result["seconds"] > GOALS["cascade_seconds"] * max(1.0, options.texts / 1e5) for result in cascade.values())
    return int(missed or (exponent is not None and exponent > GOALS["exponent"]))


def share(part: float | None) -> str:
    """A share for the table; a dash where every text was compared with every one."""
    return "-" if part is None else f"{part:.2%}"


def clustered(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, float32 [size, DIMENSION], with the rows that were planted, int64."""
    draw = np.random.default_rng(seed)
    centres = unit(draw.standard_normal((max(10, size // 200), DIMENSION), np.float32))
    centres = unit(centres + 0.5 * unit(draw.standard_normal((1, DIMENSION), np.float32)))  # texts of one language have something in common
    vectors = np.empty((size, DIMENSION), np.float32)
    for first in range(0, size, BLOCK):
        rows = vectors[first : first + BLOCK]
        noise = unit(draw.standard_normal(rows.shape, np.float32))
        rows[:] = unit(centres[draw.integers(len(centres), size=len(rows))] + noise)
    planted = np.flatnonzero(draw.random(size) < 0.1)
    planted = planted[planted > 0]
    sources = (draw.random(len(planted)) * planted).astype(np.int64)
    cosines = draw.uniform(0.96, 1.0, len(planted))
    for row, source, cosine in zip(planted, sources, cosines, strict=True):
        vectors[row] = beside(vectors[source : source + 1], float(cosine), draw)[0]
    return vectors, planted


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compare(size: int, sample: int) -> dict[str, Any]:
    """Seconds with recall, of the index, of k-means cells."""
    vectors, planted = clustered(size)
    start = time.process_time()
    meaning, kept = offered(vectors)
    seconds = time.process_time() - start
    start = time.process_time()
    cells = in_cells(vectors)
    cells_seconds = time.process_time() - start
    chosen = np.random.default_rng(1).choice(planted, min(sample, len(planted)), replace=False)
    expected, found, any_before, in_cell = 0, 0, 0, 0
    for row in chosen:
        alike = np.flatnonzero(vectors[:row] @ vectors[row] > THRESHOLD)
        if kept[alike].any():
            expected, found = expected + 1, found + int(not kept[row])
        if len(alike):
            any_before, in_cell = any_before + 1, in_cell + int((cells[alike] == cells[row]).any())
    own = meaning.recall(sample, seed=0)
    result = {"seconds": seconds, "recall": found / expected, "sampled": expected, "dropped": int((~kept).sum())}
    result |= {"boundary": own.found / own.planted if own.planted else None, "missed": own.missed, "checked": own.checked}
    return result | {"cells s": cells_seconds, "cells recall": in_cell / any_before}


def offered(vectors: np.ndarray) -> tuple[Meaning, np.ndarray]:
    """Members after all vectors were offered, with whether each was kept, bool [vectors]."""
    meaning, kept = Meaning(THRESHOLD), np.zeros(len(vectors), bool)
    first = 0
    while first < len(vectors):
        found = meaning.compare(vectors[first : first + CHUNK])
        chosen: list[int] = []
        settled = len(found.known)
        for row in np.flatnonzero(~found.known).tolist():
            if not any(kept[first + other] for other in found.near[row]):
                kept[first + row] = True
                chosen.append(row)
                if len(chosen) == meaning.room:
                    settled = row + 1
                    break
        meaning.add(found, chosen)
        first += settled
    return meaning, kept


def in_cells(vectors: np.ndarray) -> np.ndarray:
    """K-means cell of each vector, int64 [vectors], after comparing all vectors within each cell."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(math.isqrt(len(vectors)), batch_size=BLOCK, n_init=1, max_iter=10, random_state=0)
    examples = vectors[np.random.default_rng(0).permutation(len(vectors))[: max(20_000, 40 * model.n_clusters)]]
    centres = unit(model.fit(examples).cluster_centers_).astype(np.float32)
    cells = np.concatenate([(vectors[first : first + BLOCK] @ centres.T).argmax(axis=1) for first in range(0, len(vectors), BLOCK)])
    order = np.argsort(cells, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        for first in range(0, len(rows), BLOCK):
            (vectors[rows[first : first + BLOCK]] @ vectors[rows].T > THRESHOLD).any(axis=1)
    return cells


def whole_cascade(texts: int, groups: int) -> dict[str, Any]:
    """Seconds of texts in so many groups, without embedding, with counts of verdicts."""
    written, vectors = sentences(texts)
    places = {text: place for place, text in enumerate(written)}
    embedding = 0.0

    def embed(asked: Sequence[str]) -> np.ndarray:
        nonlocal embedding
        start = time.process_time()
        found = vectors[[places[text] for text in asked]]
        embedding += time.process_time() - start
        return found

    dedup = Deduplicator(DedupConfig(threshold=THRESHOLD), embed)
    names = [str(place % groups) for place in range(texts)]
    verdicts: dict[str, int] = {}
    start = time.process_time()
    for first in range(0, texts, BLOCK):
        for verdict in dedup.offer(names[first : first + BLOCK], written[first : first + BLOCK]):
            verdicts[verdict or "kept"] = verdicts.get(verdict or "kept", 0) + 1
    return {"seconds": time.process_time() - start - embedding, "verdicts": verdicts}


def sentences(texts: int) -> tuple[list[str], np.ndarray]:
    """Texts of fifteen words with a vector each; some are again what an earlier one was, some nearly."""
    draw = np.random.default_rng(0)
    letters = np.array(list(string.ascii_lowercase))
    words = ["".join(draw.choice(letters, length)) for length in draw.integers(2, 10, 5000)]
    vectors, _ = clustered(texts, seed=2)
    written: list[str] = []
    for chosen in draw.integers(len(words), size=(texts, 15)):
        text = " ".join(words[place] for place in chosen)
        if written and draw.random() < 0.1:
            old = written[draw.integers(len(written))]
            text = old.upper() if draw.random() < 0.5 else old[:30] + "?" + old[31:]
        written.append(text)
    return written, vectors


if __name__ == "__main__":
    sys.exit(main())
