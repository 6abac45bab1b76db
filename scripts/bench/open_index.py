"""How long an indexed source takes to open, how much memory of its own that needs, beside reading its JSON.

make bench NAME=open_index ARGS="--records 665000"
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

REPEATS = 5
GOAL_SECONDS, GOAL_MIB = 0.5, 50.0
WORDS = "the of a picture shows red blue square circle left right above below near large small one two three what where how many".split()


def write(path: Path, records: int) -> None:
    """Writes LLaVA-like records: a picture for 94 % of them, one to six rounds."""
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(path.parent / "one.png")
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(records):
            turns = []
            for position in range(draw.randint(1, 6)):
                question = " ".join(draw.choices(WORDS, k=draw.randint(4, 16)))
                mark = "<image>\n" if position == 0 and number % 16 else ""
                turns.append({"from": "human", "value": mark + question + "?"})
                turns.append({"from": "gpt", "value": " ".join(draw.choices(WORDS, k=draw.randint(3, 60))) + "."})
            record = {"id": str(number), "conversations": turns} | ({"image": "one.png"} if number % 16 else {})
            file.write(",\n" * (number > 0) + json.dumps(record))
        file.write("]\n")


def private_mib() -> float:
    """Memory of this process that no other shares, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measured(what: Callable[[], Any], queue: Any) -> None:
    """Puts (seconds, MiB of memory gained) of a call into a queue; to be run in a process of its own."""
    before, start = private_mib(), time.perf_counter()
    kept = what()
    seconds = time.perf_counter() - start
    queue.put((seconds, private_mib() - before))
    del kept


def in_a_process(what: Callable[[], Any]) -> tuple[float, float]:
    """`measured` in a fork: everything is imported there already."""
    context = get_context("fork")
    queue = context.Queue()
    process = context.Process(target=measured, args=(what, queue))
    process.start()
    found: tuple[float, float] = queue.get()
    process.join()
    return found


def main() -> int:
    """Builds, then opens; prints both beside json.load; fails where a goal is missed."""
    from transformers import AutoProcessor

    from data.config import DataConfig
    from data.dataset import load_sources
    from data.pictures import pictures_of
    from data.terrarium.base import BASE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    arguments = parser.parse_args()
    processor = AutoProcessor.from_pretrained(BASE)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "records.json"
        write(path, arguments.records)
        config = DataConfig.model_validate({"sources": [{"path": str(path)}], "cache": f"{name}/cache"})

        def open_it() -> Any:
            (found,) = load_sources(config, processor.tokenizer, pictures_of(processor), progress=sys.stderr.isatty())
            assert len(found) == arguments.records, found.kinds
            return found

        start = time.perf_counter()
        open_it()
        built = time.perf_counter() - start
        runs = [(in_a_process(open_it), in_a_process(lambda: json.loads(path.read_bytes()))) for _ in range(REPEATS)]
    seconds, plain = (min(run[which][0] for run in runs) for which in (0, 1))
    mib, plain_mib = (min(run[which][1] for run in runs) for which in (0, 1))
    print(f"{arguments.records} records, {os.cpu_count()} cores")
    print(f"build: {built:.1f} s, {arguments.records / built:.0f} records/s (once)")
    print(f"open:  {seconds:.3f} s, {mib:.0f} MiB of its own (goals at 665,000: {GOAL_SECONDS} s, {GOAL_MIB:.0f} MiB)")
    print(f"json:  {plain:.3f} s, {plain_mib:.0f} MiB; {plain / seconds:.0f} times as long, {plain_mib / max(mib, 0.1):.0f} times as much")
    return 0 if seconds <= GOAL_SECONDS and mib <= GOAL_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
