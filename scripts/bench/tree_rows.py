"""Measures what dialogues of a tree save by sharing rows: tokens computed, time of forward and backward pass.

    make bench NAME=tree_rows

A LLaMA of random weights reads the same dialogues twice: packed as separate paths, and joined, shared beginnings computed once. Loss and
gradients of both are compared before anything is timed; then both take turns, and the shortest time of each counts. Rows are cut as
training cuts them. On a CPU attention takes a dense mask (SDPA), on a GPU the joined rows take flex.
The goal is 0.9 of what the tokens alone would save. Results: runs/bench/tree_rows.json.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.branches import Branches, common, join, merge
from data.packing import pack

GOAL = 0.9  # time saved over tokens saved
LENGTH = 1024  # tokens of a row
SHAPES = {"balance": [3, 1, 8, 1], "deep": [2, 1, 3, 1, 3, 1], "wide": [20, 1]}
TOKENS = (16, 64)  # of a question, of an answer
VOCABULARY = 2048
SIZES = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}

Path_ = tuple[np.ndarray, np.ndarray]
"""Ids int32 [tokens] with weights float32 [tokens]."""


def main() -> int:
    """Prints a table, writes the JSON; exit code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="times each is run, at least 5 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/tree_rows.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if options.runs < 5:
        parser.error(f"--runs: got {options.runs}, expected 5 or more; fewer say little")
    torch.set_num_threads(1)
    model = llama()
    columns = ("paths", "tokens apart", "together", "token ratio", "time ratio", "time/tokens")
    print(f"{'shape':<10}" + "".join(f"{column:>14}" for column in columns))
    results = {}
    for name, children in SHAPES.items():
        result = results[name] = compare(model, list(dialogues(children)), options.runs)
        whole = "".join(f"{result[column]:>14,}" for column in columns[:3])
        print(f"{name:<10}{whole}" + "".join(f"{result[column]:>14.2f}" for column in columns[3:]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch.__version__, "device": str(model.device), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    options.output.write_text(json.dumps(record | {"goal": GOAL, "shapes": results}, indent=1) + "\n", encoding="utf-8")
    print(f"goal: {GOAL} of the token ratio; written: {options.output}")
    return int(any(result["time/tokens"] < GOAL for result in results.values()))


def llama() -> Any:
    """A language model that has learned nothing, in float32 on a CPU, in bf16 on a GPU."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **SIZES))
    return (model.to("cuda", torch.bfloat16) if torch.cuda.is_available() else model).train()


def dialogues(children: Sequence[int]) -> Iterator[Path_]:
    """The paths of one tree, depth first; answers carry loss, a turn that n paths share 1/n in each."""
    draw = np.random.default_rng(0)

    def below(layer: int, ids: list[np.ndarray], leaves: list[float]) -> Iterator[Path_]:
        if layer == len(children):
            turns = zip(ids, leaves, strict=True)
            weights = [np.full(len(turn), 1 / count if number % 2 else 0, np.float32) for number, (turn, count) in enumerate(turns)]
            yield np.concatenate(ids), np.concatenate(weights)
            return
        for _ in range(children[layer]):
            turn = draw.integers(0, VOCABULARY, draw.poisson(TOKENS[layer % 2])).astype(np.int32)
            yield from below(layer + 1, [*ids, turn], [*leaves, float(np.prod(children[layer + 1 :], initial=1))])

    return below(0, [], [])


def compare(model: Any, paths: list[Path_], runs: int) -> dict[str, Any]:
    """Both ways over the same paths: tokens, seconds, ratios."""
    lengths = np.array([len(ids) for ids, _ in paths])
    shared = np.array([0] + [common(one[0], other[0]) for one, other in zip(paths, paths[1:], strict=False)])
    bounds, _ = join(lengths, shared, LENGTH)
    units = {
        "apart": [merge([ids], [weights]) for ids, weights in paths],
        "together": [merge(*zip(*paths[first:last], strict=True)) for first, last in zip(bounds, bounds[1:], strict=False)],
    }
    batches = {name: list(rows_of(model, found)) for name, found in units.items()}
    check({name: epoch(model, found) for name, found in batches.items()})
    seconds = {name: min(_timed(model, batches[name]) for _ in range(runs)) for name in batches}
    tokens = {name: sum(len(one.input_ids) for one in found) for name, found in units.items()}
    ratios = [found["apart"] / found["together"] for found in (tokens, seconds)]
    result = {"paths": len(paths), "tokens apart": tokens["apart"], "together": tokens["together"], "seconds": seconds}
    return result | {"token ratio": ratios[0], "time ratio": ratios[1], "time/tokens": ratios[1] / ratios[0]}


def rows_of(model: Any, units: Sequence[Branches]) -> Iterator[dict[str, torch.Tensor]]:
    """A batch of one row each, as the collator lays units out."""
    from data.collate import Collator
    from data.pictures import Pictures

    class Tokenizer:
        pad_token_id = 0

    collate = Collator(Tokenizer(), Pictures(), layout="packed")
    packing = pack(np.array([len(one.input_ids) for one in units]), LENGTH, seed=0)
    for first, last in zip(packing.rows, packing.rows[1:], strict=False):
        samples = [_sample(units[number]) for number in packing.samples[first:last]]
        yield {name: value.to(model.device) for name, value in collate([samples]).items()}


def _sample(unit: Branches) -> dict[str, Any]:
    ids, weights = torch.from_numpy(unit.input_ids.astype(np.int64)), torch.from_numpy(unit.weights)
    places = {name: torch.from_numpy(getattr(unit, name)) for name in ("positions", "visible_until", "predictors")}
    labels = torch.where(weights > 0, ids, -100)
    return {"input_ids": ids, "labels": labels, "weights": weights, "images": [], "source": 0, **({} if unit.is_one_path else places)}


def epoch(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """The loss of all rows, with all gradients in one."""
    from model.attention import attention_inputs, use
    from train.head import LossHead, chunked
    from train.losses import labelled_rows, token_losses

    trees = any("predictors" in batch for batch in batches)
    use(model, "flex_attention" if trees and model.device.type == "cuda" else "sdpa")
    model.zero_grad()
    head, total = LossHead(model), 0.0
    told = {"labels", "loss_weights", "predictors", "sources", "text_only"}
    with head.installed():
        for batch in batches:
            rows = labelled_rows(batch)

            def loss(logits: torch.Tensor, span: slice, rows: Any = rows) -> torch.Tensor:
                part = rows.part(span)
                return (token_losses(logits, part.labels) * part.weights).sum()

            inputs = attention_inputs(model, {name: value for name, value in batch.items() if name not in told})
            with head.asked(rows, lambda hidden, own, loss=loss: chunked(hidden, own, loss)):
                value = model(**inputs, use_cache=False).logits
            value.backward()
            total += value.item()
    return total, torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def check(found: dict[str, tuple[float, torch.Tensor]]) -> None:
    """Both ways must learn the same.

    Raises:
        AssertionError: They do not.
    """
    (loss, gradient), (other_loss, other_gradient) = found["apart"], found["together"]
    assert abs(loss - other_loss) < 1e-3 * abs(loss), (loss, other_loss)
    assert (gradient - other_gradient).norm() < (1e-3 if gradient.device.type == "cpu" else 5e-2) * gradient.norm()


def _timed(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> float:
    start = time.perf_counter()
    epoch(model, batches)
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
