"""Measures the growth of a balance tree beside one call of `generate` per turn, on the Terrarium's base.

    make bench NAME=tree_generation ARGS="--roots 1000"

One call per turn is what one would write by hand: a batch of one, a KV cache, the same prompts, temperatures, seeds; it writes a sample of
each layer's turns, whose mean stands for the layer. The sample is spread evenly over the lengths of turns, sampled turns are held to the
length that they have in the tree, so that luck with lengths decides nothing; greedy turns are compared with the tree's first. Both take
turns (A B A B) on one thread; the shortest time of each counts, in seconds of the core, since other work does not belong to it.
Checks, filters, duplicates, commits count as the tree's time; one call per turn is spared them. Our own share is all of the growth's time
by the clock that the engine does not take. Prefill: tokens of prompts that the model reads, over those that the tree holds where each node
counts once: within each layer all before its turns, then over the whole tree, of which nothing is kept from layer to layer.
Results: runs/bench/tree_generation.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from data.trees.engine import Completion, Engine, Request, Sampling
from data.trees.grow import Tools, grow
from data.trees.make import open_folder, tools_of
from data.trees.nodes import Tree
from data.trees.plan import TreeConfig
from data.trees.writers import Writer

GOAL = 5.0  # times faster than one call per turn
TIE = 1e-4  # greedy turns may differ where the two best logits lie this close
MOST_RUNS = 50

Turn = tuple[Request, Completion]


def main() -> int:
    """Prints a table, writes the JSON; exit code 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", type=int, default=1000, help="first questions, 1000 for the goal (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=40, help="turns of each layer that one call each writes (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, at least 3 (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="turns that the engine writes at once (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/tree_generation.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if not 3 <= options.runs <= MOST_RUNS:
        parser.error(f"--runs: got {options.runs}, expected 3 to {MOST_RUNS}; fewer say little")
    if not 10 <= options.sample <= options.roots:
        parser.error(f"--sample: got {options.sample}, expected 10 to {options.roots} (--roots)")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        found = measure(options)
    show(found)
    record = {"roots": options.roots, "sample": options.sample, "batch_size": options.batch_size, "runs": options.runs}
    record |= {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "goal": GOAL, **found}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(found["ratio"] < GOAL)


@dataclass
class Layer:
    """What the engine did for one layer.

    Attributes:
        sampling: How its turns were written.
        turns: All requests, with what was written.
        seconds: Of the core, inside the engine.
        read: Tokens of prompts that the model read, padding not counted.
    """

    sampling: Sampling
    turns: list[Turn] = field(default_factory=list)
    seconds: float = 0.0
    read: int = 0


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One growth.

    Attributes:
        layers: What the engine did.
        before: For each layer the tokens of the tree before its turns.
        core: Seconds of the core.
        wall: Seconds by the clock.
        own: Those outside of the engine.
    """

    layers: list[Layer]
    before: list[int]
    core: float
    wall: float
    own: float


class Watched:
    """An engine whose time, turns, prefill are noted."""

    def __init__(self, engine: Engine, model: Any) -> None:
        """Watches from outside: nothing but the model's calls is known of how the engine works."""
        self.end_ids, self.block_size = engine.end_ids, engine.block_size
        self.layers: list[Layer] = []
        self.wall = 0.0
        self._engine, self._model, self._unread = engine, model, 0

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.complete`."""
        if not self.layers or self.layers[-1].sampling != sampling:  # neighbouring layers are written in different ways
            self.layers.append(Layer(sampling))
        layer, asked = self.layers[-1], list[Request]()
        hook = self._model.register_forward_pre_hook(self._reading, with_kwargs=True)
        self._start()
        try:
            for completions in self._engine.complete(self._handed(blocks, asked), sampling):
                self._stop()
                layer.turns += zip(asked[: len(completions)], completions, strict=True)
                del asked[: len(completions)]
                yield completions
                self._start()
            self._stop()
        finally:
            hook.remove()

    def _handed(self, blocks: Iterable[Sequence[Request]], asked: list[Request]) -> Iterator[Sequence[Request]]:
        """The blocks; making them is no time of the engine's."""
        source = iter(blocks)
        while True:
            self._stop()
            block = next(source, None)
            self._start()
            if block is None:
                return
            asked.extend(block)
            self._unread = max(len(request.ids) for request in block)
            yield block

    def _start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def _stop(self) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.layers[-1].seconds += time.process_time() - self._began[1]

    def _reading(self, model: Any, positional: Any, inputs: dict[str, Any]) -> None:
        """Counts what is read until the columns of a block's longest prompt have been: what comes after was written."""
        if self._unread > 0:
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")  # `generate` leaves out a mask that hides nothing
            self._unread -= ids.shape[1]
            self.layers[-1].read += ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Grows and calls by turns; gives the shortest times, by layer and in all.

    Raises:
        RuntimeError: Two growths differ, or a greedy turn differs from that of one call.
    """
    import torch

    from data.terrarium.base import resolve
    from data.trees.writers import in_memory
    from model.build import load_pair
    from model.processor import tokenizer_of

    torch.set_num_threads(1)
    model, processor = load_pair(resolve("terrarium"))
    tokenizer = tokenizer_of(processor)
    writer = in_memory(model, tokenizer, options.batch_size)
    plan = balance(options.roots, options.batch_size)
    grow_once(balance(10, options.batch_size), writer, model)  # warms up
    growths = [grow_once(plan, writer, model)]
    chosen = [spread(layer.turns, options.sample) for layer in growths[0].layers]
    ties = check(model, tokenizer, growths[0].layers, chosen)
    calls = [one_by_one(model, tokenizer, growths[0].layers, chosen)]
    for _ in range(options.runs - 1):
        growths.append(grow_once(plan, writer, model))
        calls.append(one_by_one(model, tokenizer, growths[0].layers, chosen))
    if any([layer.turns for layer in growth.layers] != [layer.turns for layer in growths[0].layers] for growth in growths):
        raise RuntimeError("two growths of one plan differ; the engine does not repeat itself")
    layers = [compared(growths, calls, number) for number in range(plan.depth)]
    single, least = sum(layer["turns"] * layer["call_ms"] / 1000 for layer in layers), min(growth.core for growth in growths)
    read, before = sum(layer["read"] for layer in layers), growths[0].before
    return {
        "ratio": single / least,
        "own_share": min(growth.own / growth.wall for growth in growths),
        "prefill": read / sum(before),
        "prefill_of_tree": read / before[-1],
        "seconds": {"tree": [growth.core for growth in growths], "tree_wall": [growth.wall for growth in growths], "one_call": single},
        "greedy": {"compared": sum(len(one) for one, layer in zip(chosen, growths[0].layers, strict=True) if greedy(layer)), "ties": ties},
        "layers": layers,
    }


def balance(roots: int, batch_size: int) -> TreeConfig:
    """A balance tree whose first questions have one answer, two follow-ups."""
    engine = {"kind": "transformers", "batch_size": batch_size}
    values = {"shape": "balance", "children": (roots, 1, 2, 1), "max_tokens": (48, 64), "dedup": {"embeddings": "none"}, "engine": engine}
    return TreeConfig.model_validate(values)


def grow_once(plan: TreeConfig, writer: Writer, model: Any) -> Growth:
    """Grows the plan in a folder of its own, without exports or report."""
    watched = Watched(writer.engine, model)
    with tempfile.TemporaryDirectory() as folder:
        core, wall = time.process_time(), time.perf_counter()
        tools = tools_of(plan, replace(writer, engine=watched))
        home = open_folder(plan, writer, tools.openers, folder)
        home.begin()
        grow(plan, tools, home)
        tree = home.tree
        home.close()
        core, wall = time.process_time() - core, time.perf_counter() - wall
    return Growth(layers=watched.layers, before=tokens_before(tree, tools), core=core, wall=wall, own=wall - watched.wall)


def spread(turns: Sequence[Turn], count: int) -> list[Turn]:
    """So many turns, evenly from the shortest to the longest."""
    ordered = sorted(turns, key=lambda turn: (turn[1].tokens, len(turn[0].ids)))
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]


def one_by_one(model: Any, tokenizer: Any, layers: Sequence[Layer], chosen: Sequence[Sequence[Turn]]) -> list[Any]:
    """For each layer the seconds of the core that one call a turn takes on average, with the tokens it wrote."""
    found = []
    for layer, turns in zip(layers, chosen, strict=True):
        start = time.process_time()
        written = [one_call(model, tokenizer, turn, layer.sampling)[0] for turn in turns]
        seconds = (time.process_time() - start) / len(turns)
        found.append((seconds, sum(map(len, written)) / len(turns)))
    return found


def one_call(model: Any, tokenizer: Any, turn: Turn, sampling: Sampling, **further: Any) -> tuple[list[int], Any]:
    """Tokens of a turn, its end included, as plain `generate` writes them; then all that it returned."""
    import torch

    request, completion = turn
    ids, most = torch.tensor([request.ids]), sampling.max_tokens
    torch.manual_seed(request.seed)
    if sampling.temperature > 0:
        most = min(completion.tokens + 1, most)
        further |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_new_tokens": most}
    if sampling.stop_texts:
        further |= {"stop_strings": list(sampling.stop_texts), "tokenizer": tokenizer}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most,
        do_sample=sampling.temperature > 0,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        **further,
    )
    return output.sequences[0, len(request.ids) :].tolist(), output


def check(model: Any, tokenizer: Any, layers: Sequence[Layer], chosen: Sequence[Sequence[Turn]]) -> int:
    """Compares greedy turns; gives how many differ where two logits tie.

    Raises:
        RuntimeError: One differs elsewhere.
    """
    ties = 0
    for layer, turns in zip(layers, chosen, strict=True):
        for request, completion in turns if greedy(layer) else ():
            tokens, output = one_call(model, tokenizer, (request, completion), layer.sampling, output_logits=True)
            ended = tokens and tokens[-1] in layer.sampling.stop_ids
            text = tokenizer.decode(tokens[:-1] if ended else tokens, clean_up_tokenization_spaces=False)
            if text == completion.text:
                continue
            best = [logits[0].topk(2).values.tolist() for logits in output.logits]
            if min(first - second for first, second in best) > TIE:
                raise RuntimeError(f"after {request.prompt!r}: got {completion.text!r} in the tree, {text!r} from one call; no logits tie")
            ties += 1
    return ties


def greedy(layer: Layer) -> bool:
    """Whether a layer's turns are the likeliest ones."""
    return layer.sampling.temperature == 0


def compared(growths: Sequence[Growth], calls: Sequence[Sequence[tuple[float, float]]], number: int) -> dict[str, Any]:
    """Both ways in one layer, the shortest time of each."""
    layer = growths[0].layers[number]
    turns = len(layer.turns)
    tree, call = min(growth.layers[number].seconds for growth in growths) / turns, min(run[number][0] for run in calls)
    tokens = sum(one.tokens + (one.finish_reason == "stop") for _, one in layer.turns)  # the end included
    found = {"turns": turns, "tree_tokens": tokens / turns, "call_tokens": calls[0][number][1]}
    found |= {"tree_ms": 1000 * tree, "call_ms": 1000 * call, "ratio": call / tree}
    return found | {"read": layer.read, "unique": growths[0].before[number]}


def tokens_before(tree: Tree, tools: Tools) -> list[int]:
    """For each layer the tokens of all that stands before its turns: the root prompt, then what each node of the layers above adds."""
    turns: dict[str, list[tuple[Any, str]]] = {}
    for node in tree.nodes:
        turns[node.id] = [*(turns[node.parent] if node.parent else []), (node.role, node.text)]
    prompts = [tools.openers.prompt(None, path) for path in ([], *turns.values())]
    lengths = dict(zip(["", *turns], map(len, tools.tokenizer(prompts, add_special_tokens=False)["input_ids"]), strict=True))
    found = [lengths[""]]
    for layer in range(len(tree.layers) - 1):
        found.append(found[-1] + sum(lengths[node.id] - lengths[node.parent or ""] for node in tree.nodes if node.layer == layer))
    return found


def show(found: dict[str, Any]) -> None:
    """Prints what was found."""
    print(f"{'layer':<8}{'turns':>8}{'tokens a turn':>16}{'one call':>10}{'ms':>8}{'one call':>10}{'ratio':>8}{'read':>10}{'unique':>10}")
    for number, layer in enumerate(found["layers"], start=1):
        written = f"{layer['turns']:>8}{layer['tree_tokens']:>16.1f}{layer['call_tokens']:>10.1f}"
        took = f"{layer['tree_ms']:>8.2f}{layer['call_ms']:>10.2f}{layer['ratio']:>8.1f}"
        print(f"{number:<8}{written}{took}{layer['read']:>10}{layer['unique']:>10}")
    times = "  ".join(f"{seconds:.1f}" for seconds in found["seconds"]["tree"])
    print(f"tree: {times} s of the core; one call per turn: {found['seconds']['one_call']:.1f} s")
    print(f"greedy turns compared: {found['greedy']['compared']}, different at a tie: {found['greedy']['ties']}")
    print(f"times faster: {found['ratio']:.1f} (goal: {GOAL:.0f}); our own share: {found['own_share']:.2%}")
    whole = f"{found['prefill_of_tree']:.3f} over the whole tree"
    print(f"prefill / unique: {found['prefill']:.3f} within layers, {whole}")


if __name__ == "__main__":
    sys.exit(main())
