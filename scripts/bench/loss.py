"""Measures the loss behind the language model: time and memory beside whole logits and beside torch's linear_cross_entropy.

    make bench NAME=loss

One batch of hidden states with a vocabulary of 152,000, a fifth of its tokens carrying loss; loss and gradients, the head frozen or
trained, float32, one thread. All take turns; the shortest time counts, in seconds of the core. Loss and gradients are compared with those
of whole logits first. Memory is how far the peak of a fresh process rises above what it held before, gradients included. Liger's kernels
need a GPU: they are left out.
Results: runs/bench/loss.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional

from train.head import CHUNK, Weights, chunked
from train.losses import labelled_rows, token_losses

GOAL = 1.05  # times the share of tokens that carry loss, times whole logits
IGNORED = -100
IDLE = 0.05  # share of all cores that others may take
STATUS = Path("/proc/self/status")
HEADS = ("frozen", "trained")

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Hidden states [1, tokens, hidden], head [vocabulary, hidden], labels [1, tokens] -> the mean over tokens that carry loss."""


def whole(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits at every position, as transformers computes its loss."""
    logits = functional.linear(hidden, head)[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def ours(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What training here does."""
    zeros = torch.zeros_like(labels)
    rows = labelled_rows({"labels": labels, "text_only": zeros.bool(), "sources": zeros})

    def of_chunk(logits: torch.Tensor, span: slice) -> torch.Tensor:
        return token_losses(logits, rows.labels[span]).sum() / len(rows)

    return chunked(hidden[rows.batch, rows.position], Weights(head, None), of_chunk)


def torch_chunked(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Torch's own, in chunks of our size; the two to eight rows that it chooses itself take ten times as long on a CPU."""
    states, targets = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return functional.linear_cross_entropy(states, head, targets, ignore_index=IGNORED, options=chunks_like_ours(head))


def torch_chunked_on_labels(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same, given no row that carries no loss."""
    carries = labels[0, 1:] != IGNORED
    return functional.linear_cross_entropy(hidden[0, :-1][carries], head, labels[0, 1:][carries], options=chunks_like_ours(head))


def chunks_like_ours(head: torch.Tensor) -> Any:
    """Options of torch's loss."""
    return torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=max(1, CHUNK // len(head)))


WAYS: dict[str, Loss] = {"whole logits": whole, "ours": ours}
if hasattr(functional, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions"):
    WAYS |= {"torch, chunked": torch_chunked, "torch, chunked, labels alone": torch_chunked_on_labels}


def main() -> int:
    """Prints a table for each state of the head, writes the JSON; exit code 1 when the goal is missed."""
    options = arguments()
    torch.set_num_threads(1)
    if options.memory is not None:
        print(json.dumps(rise(WAYS[options.memory[0]], *inputs(options, options.memory[1]))))
        return 0
    busy = psutil.cpu_percent(interval=2) / 100
    if busy > IDLE and not options.force:
        print(f"other processes take {busy:.0%} of the cores; stop them, or --force a result that is marked so", file=sys.stderr)
        return 1
    share = options.labels / options.tokens
    print(f"{options.tokens} tokens x {options.vocabulary}, hidden {options.hidden}, {share:.1%} carry loss, torch {torch.__version__}")
    results, missed = {}, False
    for head in HEADS:
        results[head] = found = measure(options, head)
        naive = found["whole logits"]
        missed = missed or found["ours"]["seconds"] > GOAL * share * naive["seconds"]
        print(f"\n{'head ' + head:<32}{'seconds':>10}{'spread':>10}{'times':>10}{'peak MiB':>10}{'times':>10}")
        for name, one in found.items():
            times = [one[kind] / naive[kind] for kind in ("seconds", "bytes")]
            print(
                f"{name:<32}{one['seconds']:>10.2f}{one['spread']:>10.1%}{times[0]:>10.3f}{one['bytes'] / 2**20:>10,.0f}{times[1]:>10.3f}"
            )
    print(f"\ngoal: {GOAL} x {share:.3f} = {GOAL * share:.3f} of the seconds" + (" (BUSY: times say little)" if busy > IDLE else ""))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"tokens": options.tokens, "labels": options.labels, "vocabulary": options.vocabulary, "hidden": options.hidden}
    record |= {"goal": GOAL * share, "others": busy, "torch": torch.__version__, "cores": os.cpu_count(), "results": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(missed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="positions of the batch (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=205, help="positions that carry loss (default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=152_000, help="(default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=896, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="turns of each, at least 5 (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine; the result says so")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/loss.json"), help="file to write (default: %(default)s)")
    parser.add_argument("--memory", nargs=2, metavar=("WAY", "HEAD"), help="only say how much memory one way takes, in bytes")
    options = parser.parse_args()
    if options.runs < 5 and not options.force:
        parser.error(f"--runs: got {options.runs}, expected 5 or more; fewer say little")
    if not 0 < options.labels < options.tokens:
        parser.error(f"--labels: got {options.labels}, expected 1 to {options.tokens - 1}")
    return options


def inputs(options: argparse.Namespace, head: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, the head's matrix, labels; drawn from a seed."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, options.tokens, options.hidden, generator=draw)
    matrix = torch.empty(options.vocabulary, options.hidden).normal_(0, options.hidden**-0.5, generator=draw)
    labels = torch.full((1, options.tokens), IGNORED)
    places = 1 + torch.randperm(options.tokens - 1, generator=draw)[: options.labels]
    labels[0, places] = torch.randint(options.vocabulary, (options.labels,), generator=draw)
    return hidden.requires_grad_(), matrix.requires_grad_(head == "trained"), labels


def measure(options: argparse.Namespace, head: str) -> dict[str, dict[str, float]]:
    """Seconds of a core, their spread, bytes of each way."""
    hidden, matrix, labels = inputs(options, head)
    check(hidden, matrix, labels)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.runs):
        for name, way in WAYS.items():
            start = time.process_time()
            step(way, hidden, matrix, labels)
            times[name].append(time.process_time() - start)
    found = {}
    sizes = [word for name in ("tokens", "labels", "vocabulary", "hidden") for word in (f"--{name}", str(getattr(options, name)))]
    for name, each in times.items():
        words = [sys.executable, __file__, *sizes, "--memory", name, head]
        peak = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        found[name] = {"seconds": min(each), "spread": max(each) / min(each) - 1, "bytes": peak}
    return found


def step(way: Loss, hidden: torch.Tensor, matrix: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Loss with gradients, those of the head where it trains."""
    wanted = [one for one in (hidden, matrix) if one.requires_grad]
    loss = way(hidden, matrix, labels)
    return loss.detach(), *torch.autograd.grad(loss, wanted)


def check(hidden: torch.Tensor, matrix: torch.Tensor, labels: torch.Tensor) -> None:
    """Makes sure that all ways give the same.

    Raises:
        RuntimeError: One does not.
    """
    expected = step(whole, hidden, matrix, labels)
    for name, way in WAYS.items():
        for what, one, other in zip(
            ("loss", "hidden gradient", "head gradient"), step(way, hidden, matrix, labels), expected, strict=False
        ):
            wrong = ((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()
            if not wrong < 1e-4:
                raise RuntimeError(f"{name}: its {what} differs by {wrong:.1e} of the largest value from that of whole logits")


def rise(way: Loss, hidden: torch.Tensor, matrix: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes by which the process's memory rises at most."""
    small: list[Any] = [hidden.detach()[:, :8].requires_grad_(), matrix.detach()[:64].requires_grad_(matrix.requires_grad)]
    step(way, *small, torch.ones_like(labels[:, :8]))  # libraries load their kernels
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak of the imports
    before = resident("VmRSS")
    step(way, hidden, matrix, labels)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most so far."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
