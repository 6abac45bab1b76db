"""Measures how full rows get and how long packing takes, beside longest-first over batches of 1,000 samples.

    make bench NAME=packing

Lengths are drawn like those of LLaVA-665k: 94 % of the samples have an image of 576 tokens and text, the others text alone, 865 tokens
on average. The reference does what packers of common trainers do (first-fit decreasing, here into the fullest row that has room), in
fewer steps than they need: it says what fill they reach, hardly how long they take. Both take turns on the same lengths; the shortest
time of each counts, in seconds of one core, since other work on the machine does not belong to it. Packings are checked before they
are timed.
Results: runs/bench/packing.json.
"""

import argparse
import json
import os
import sys
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.packing import Packing, fill, pack

GOAL = 0.5  # seconds for a million samples
GOALS = {4096: 0.998, 8192: 0.9999}  # share of a row's tokens that are real, by capacity
BATCH = 1000  # samples that the reference packs together
MOST_RUNS = 100


def main() -> int:
    """Prints two tables, writes the JSON; exit code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="samples to pack, 1000000 for the goals (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="times each packer runs, at least 5 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/packing.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if not 5 <= options.runs <= MOST_RUNS:
        parser.error(f"--runs: got {options.runs}, expected 5 to {MOST_RUNS}; fewer say little")
    if options.samples < BATCH:
        parser.error(f"--samples: got {options.samples}, expected {BATCH} or more; fewer are packed in no time")
    lengths = llava_lengths(options.samples, seed=0)
    print(f"{options.samples} samples, {lengths.mean():.0f} tokens on average")
    columns = ("fill", "goal", "first-fit", "seconds", "wall", "first-fit s", "times faster", "samples/s")
    print(f"{'capacity':<10}" + "".join(f"{column:>14}" for column in columns))
    results = {}
    for capacity, goal in GOALS.items():
        result = results[capacity] = compare(lengths, capacity, options.runs) | {"goal": goal}
        shares = "".join(f"{result[column]:>14.4%}" for column in columns[:3])
        print(f"{capacity:<10}{shares}" + "".join(f"{result[column]:>14.2f}" for column in columns[3:7]) + f"{result['samples/s']:>14,.0f}")
    print(f"goal: {GOAL} s of one core for a million samples\n\n{'other lengths':<28}{'fill':>14}{'first-fit':>14}")
    others = {}
    for name, (one, capacity) in other_lengths(options.samples // 5).items():
        others[name] = {"fill": fill(checked(one, capacity), one, capacity), "first-fit": first_fit(one, capacity)}
        print(f"{name:<28}{others[name]['fill']:>14.4%}{others[name]['first-fit']:>14.4%}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"samples": options.samples, "runs": options.runs, "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    record |= {"goal_seconds": GOAL, "capacities": results, "other_lengths": others}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    slow = any(result["seconds"] > GOAL * max(1.0, options.samples / 1e6) for result in results.values())
    return int(slow or any(result["fill"] < result["goal"] for result in results.values()))


def llava_lengths(samples: int, *, seed: int) -> np.ndarray:
    """Lengths in tokens like those of LLaVA-665k, int64 [samples], at most 2048."""
    draw = np.random.default_rng(seed)
    with_image = 576 + draw.lognormal(np.log(238), 0.7, samples)
    text_only = draw.lognormal(np.log(500), 0.8, samples)
    return np.clip(np.where(draw.random(samples) < 0.06, text_only, with_image), 8, 2048).astype(np.int64)


def other_lengths(samples: int) -> dict[str, tuple[np.ndarray, int]]:
    """Lengths that are harder, or stranger, each with a capacity."""
    draw = np.random.default_rng(1)
    return {
        "all of 1000 at 4096": (np.full(samples, 1000), 4096),
        "900 to 1000 at 4096": (draw.integers(900, 1001, samples), 4096),
        "1 to 60 at 4096": (draw.integers(1, 61, samples), 4096),
        "1 to 4096 at 4096": (draw.integers(1, 4097, samples), 4096),
        "2049 to 4096 at 4096": (draw.integers(2049, 4097, samples), 4096),
        "1000 or 2049 at 4096": (np.where(draw.random(samples) < 0.5, 2049, 1000), 4096),
        "like LLaVA-665k at 2048": (llava_lengths(samples, seed=1), 2048),
        "like LLaVA-665k at 65536": (llava_lengths(samples, seed=1), 65536),
    }


def compare(lengths: np.ndarray, capacity: int, runs: int) -> dict[str, float]:
    """Fill and seconds of both packers."""
    packing = checked(lengths, capacity)
    reference = first_fit(lengths, capacity)
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(seconds_of(lambda: pack(lengths, capacity, seed=0)))
        theirs.append(seconds_of(lambda: first_fit(lengths, capacity)))
    seconds, wall = (min(times) for times in zip(*ours, strict=True))
    slower = min(core for core, _ in theirs)
    found = {"fill": fill(packing, lengths, capacity), "first-fit": reference, "seconds": seconds, "wall": wall}
    return found | {"first-fit s": slower, "times faster": slower / seconds, "samples/s": len(lengths) / seconds}


def checked(lengths: np.ndarray, capacity: int) -> Packing:
    """Packs, then makes sure that the rows are what was asked for.

    Raises:
        RuntimeError: A sample is missing or comes twice; a row is too long.
    """
    packing = pack(lengths, capacity, seed=0)
    if not np.array_equal(np.sort(packing.samples), np.arange(len(lengths))):
        raise RuntimeError(f"packing at {capacity}: got rows that miss samples or hold some twice, expected each exactly once")
    longest = int(np.add.reduceat(lengths[packing.samples], packing.rows[:-1]).max())
    if longest > capacity:
        raise RuntimeError(f"packing at {capacity}: got a row of {longest} tokens, expected {capacity} at most")
    return packing


def first_fit(lengths: np.ndarray, capacity: int) -> float:
    """How full rows get when every batch of samples goes longest first into the fullest row that has room."""
    rows = 0
    for first in range(0, len(lengths), BATCH):
        rooms: list[int] = []
        for length in np.sort(lengths[first : first + BATCH])[::-1].tolist():
            found = bisect_left(rooms, length)
            if found == len(rooms):
                rows += 1
                insort(rooms, capacity - length)
            else:
                insort(rooms, rooms.pop(found) - length)
    return float(lengths.sum() / (rows * capacity))


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that the work takes: of the core, by the clock."""
    core, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - core, time.perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())
