"""Measures what a siamese model costs: decoding, a training step, bytes of weights and of its key-value cache.

    make bench NAME=siamese

A LLaMA of 69 M random weights, then the Terrarium's base, with adapters and gate moved away from their start. One thread on one core,
float32; all ways take turns, the shortest turn counts, in seconds of the core.

Greedy decoding stands beside the adapter alone, and beside two passes through two models that share their weights, each with a cache, whose
states the same gate mixes; all must write the same tokens first. The time of 128 tokens is that of the first one, with the prompt, and 127
times that of one in the middle. The loop without a cache, as the authors released it, is timed at a few of them.
A training step is a whole one with AdamW; loss and gradients must be those of two models. Results: runs/bench/siamese.json.
"""

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional

from data.dataset import IGNORED
from model import adapters
from model.gate import Gate, Pair, mixed
from model.siamese import make_siamese, of
from train.config import LossConfig
from train.head import LossHead
from train.losses import labelled_rows
from train.objective import Objective

GOALS = {"two passes": 0.8, "uncached": 0.2, "training": 1.6, "weights": 1.02}
IDLE = 0.05  # share of all cores that others may take
SAME = 1e-3  # by how much losses and gradients may differ, of their size
WIDTH = 32  # tokens of the longest prompt; others are padded on the left
TOKENS = 128  # new ones
SOME = 8  # by which texts are told apart
UNCACHED = 4  # at which the loop without a cache is timed
ROWS, LENGTH = 4, 128  # of a training batch; the second half of each row carries loss
SIZES = {"vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12}
LLAMA3_8B = {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_key_value_heads": 8}
ALL, UPPER = "llm_blocks", f"llm_blocks[{SIZES['num_hidden_layers'] // 2}:]"
WORDS = range(3, SIZES["vocab_size"])

Step = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of the core in the shortest turn; by how much the longest one is longer, of it."""

    seconds: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Trio:
    """One model as the base, with an adapter, siamese; the base's weights are shared, the adapter's are equal."""

    base: Any
    tuned: Any
    siamese: Any
    gate: Gate


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text so far: ids and mask, int64 [rows, tokens]; what its way of decoding remembers of it, None before the first token."""

    ids: torch.Tensor
    mask: torch.Tensor
    memory: Any = None

    def longer(self, ids: torch.Tensor, memory: Any) -> "Text":
        """The text with more behind it."""
        return Text(ids=ids, mask=functional.pad(self.mask, (0, ids.shape[1] - self.ids.shape[1]), value=1), memory=memory)


@dataclass(kw_only=True)
class Bench:
    """Turns that each way takes, what was found so far."""

    runs: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    times: dict[str, dict[str, Time]] = field(default_factory=dict)

    def add(self, what: str, ratio: float, goal: float | None = None) -> None:
        """Adds a line to the table; a ratio's goal is the most that it may be."""
        met = None if goal is None else ratio <= goal
        self.lines.append({"what": what, "ratio": ratio, "goal": goal, "met": met})
        print(f"{what:<76}{ratio:>8.3f}{goal or '-':>8}{ {None: '-', True: 'yes', False: 'NO'}[met]:>6}", flush=True)

    def in_turn(self, name: str, ways: Mapping[str, Callable[[], Step]]) -> dict[str, Time]:
        """Times what each way has prepared, which is not timed."""
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(self.runs):
            for way, prepare in ways.items():
                step = prepare()
                start = time.process_time()
                step()
                found[way].append(time.process_time() - start)
        self.times[name] = {way: Time(seconds=min(each), spread=max(each) / min(each) - 1) for way, each in found.items()}
        return self.times[name]


def main() -> int:
    """Prints the table, writes the JSON."""
    options = arguments()
    busy = psutil.cpu_percent(interval=2) / 100
    if busy > IDLE and not options.force:
        print(f"other processes take {busy:.0%} of the cores; stop them, or --force a result that is marked so", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    record: dict[str, Any] = {name: version(name) for name in ("torch", "transformers", "peft")} | {"cores": os.cpu_count()}
    record |= {"quick": options.quick, "others": busy}
    print(", ".join(f"{name} {value}" for name, value in record.items()) + (" (BUSY: provisional)" if busy > IDLE else ""))
    print(f"{'siamese against':<76}{'ratio':>8}{'goal':>8}{'met':>6}")
    bench = Bench(runs=3 if options.quick else options.runs)
    measure(bench, quick=options.quick)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    times = {name: {way: asdict(one) for way, one in ways.items()} for name, ways in bench.times.items()}
    options.output.write_text(json.dumps(record | {"lines": bench.lines, "times": times}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="turns of each, at least 5 (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three turns of the most telling cases, in a minute; the result says so")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine; the result says so")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/siamese.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if options.runs < 5:
        parser.error(f"--runs: got {options.runs}, expected 5 or more; fewer say little")
    return options


def measure(bench: Bench, *, quick: bool) -> None:
    """All there is to measure."""
    base = llama(SIZES)
    trio = made(base)
    weights(bench, {"69 M": trio, "8 B": made(llama(LLAMA3_8B, "meta"))})
    for batch in (4,) if quick else (1, 2, 4, 8, 16):
        decoding(bench, "69 M", trio, prompts(batch, WORDS))
    for batch in () if quick else (4, 16):
        decoding(bench, "69 M, upper half", made(base, preset=UPPER), prompts(batch, WORDS))
    for kind in () if quick else ("dora", "adalora", "ia3"):
        decoding(bench, f"69 M, {kind}", made(base, kind), prompts(4, WORDS), stretch=4, tokens=32)
    uncached(bench, "69 M", trio, prompts(1, WORDS))
    training(bench, "69 M", made(base), checkpointing=False)
    if not quick:
        training(bench, "69 M", made(base), checkpointing=True)
        training(bench, "69 M, upper half", made(base, preset=UPPER), checkpointing=False)
    small, words = terrarium()
    trio = made(small)
    for batch in (4,) if quick else (1, 4, 16):
        decoding(bench, "Terrarium", trio, prompts(batch, words), stretch=32)
    uncached(bench, "Terrarium", trio, prompts(1, words))


def llama(sizes: Mapping[str, int], device: str = "cpu") -> Any:
    """A language model that has learned nothing, whose texts never end."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, tie_word_embeddings=False))
    model.generation_config.eos_token_id = None
    return model.eval()


def terrarium() -> tuple[Any, list[int]]:
    """A small model, in which all that is no product of matrices weighs more; its tokens that are words."""
    from model.build import load_pair

    model, processor = load_pair("data/terrarium/base")
    model.generation_config.eos_token_id = None
    return model, sorted(set(range(len(processor.tokenizer))) - set(processor.tokenizer.all_special_ids))


def made(base: Any, kind: str = "lora", preset: str = ALL) -> Trio:
    """The base with an adapter of rank 16 and a gate, neither at its start, where an adapter changes nothing."""
    draw, whole = torch.Generator().manual_seed(1), {id(one): one for one in base.parameters()}
    tuned = copy.deepcopy(base, whole.copy())
    adapters.attach(tuned, adapters.AdapterConfig.model_validate({"kind": kind}), preset, steps=100, seed=2)
    with torch.no_grad():
        for one in trained(tuned):
            one += 0.1 * torch.randn(one.shape, generator=draw)
    siamese = copy.deepcopy(tuned, whole.copy())
    gate = make_siamese(siamese, None, seed=3).gate
    with torch.no_grad():
        for one in gate.parameters():
            one += torch.randn(one.shape, generator=draw) * len(one) ** -0.5
    return Trio(base=base, tuned=tuned.eval(), siamese=siamese.eval(), gate=gate)


def trained(model: Any) -> list[torch.Tensor]:
    """The adapter's parameters that train."""
    return [one for one in adapters.parameters(model) if one.requires_grad]


def prompts(batch: int, ids: Sequence[int]) -> Text:
    """Prompts of half to whole `WIDTH`, padded on the left, the first one whole."""
    draw = torch.Generator().manual_seed(4)
    lengths = torch.randint(WIDTH // 2, WIDTH + 1, (batch, 1), generator=draw)
    lengths[0] = WIDTH
    mask = (torch.arange(WIDTH) >= WIDTH - lengths).long()
    return Text(ids=torch.tensor(ids)[torch.randint(len(ids), (batch, WIDTH), generator=draw)] * mask, mask=mask)


def weights(bench: Bench, trios: Mapping[str, Trio]) -> None:
    """Compares bytes of all parameters."""
    for name, trio in trios.items():
        ours, theirs = (sum(one.nbytes for one in model.parameters()) for model in (trio.siamese, trio.tuned))
        bench.add(f"{name}: bytes of weights, the adapter alone", ours / theirs, GOALS["weights"])


def decoding(bench: Bench, name: str, trio: Trio, start: Text, stretch: int = 8, tokens: int = TOKENS) -> None:
    """Times texts, by their first token and by a stretch in the middle."""
    ways = {
        "siamese": partial(generated, trio.siamese),
        "alone": partial(generated, trio.tuned),
        "two passes": partial(by_two_passes, trio),
    }
    half = {way: write(start, (tokens - stretch) // 2) for way, write in ways.items()}
    check(trio, start, {way: write(copy.deepcopy(half[way]), stretch) for way, write in ways.items()})
    name = f"{name}: {tokens} tokens, batch {len(start.ids)}"
    first = bench.in_turn(f"{name}, the first", {way: lambda write=write: partial(write, start, 1) for way, write in ways.items()})
    later = bench.in_turn(
        f"{name}, {stretch} in the middle",
        {way: lambda write=write, text=half[way]: partial(write, copy.deepcopy(text), stretch) for way, write in ways.items()},
    )
    whole = {way: first[way].seconds + (tokens - 1) * later[way].seconds / stretch for way in ways}
    bench.add(f"{name}, two cached passes", whole["siamese"] / whole["two passes"], GOALS["two passes"] if len(start.ids) > 1 else None)
    bench.add(f"{name}, the adapter alone", whole["siamese"] / whole["alone"])
    if len(start.ids) == 4:
        ours, theirs = (sum(one.keys.nbytes + one.values.nbytes for one in half[way].memory.layers) for way in ("siamese", "alone"))
        bench.add(f"{name}, bytes of the adapter's cache", ours / theirs)


def generated(model: Any, text: Text, tokens: int) -> Text:
    """Written by transformers' own `generate`; a text that goes on keeps its prompt, of which a new call would make all of the text."""
    pair = of(model) if text.memory is not None else None
    write = model.generate if pair is None else pair._generate
    options = {"past_key_values": text.memory, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    found = write(text.ids, attention_mask=text.mask, return_dict_in_generate=True, **options)
    return text.longer(found.sequences, found.past_key_values)


@torch.no_grad()
def by_two_passes(trio: Trio, text: Text, tokens: int) -> Text:
    """Written by base and adapted model, stepped together; without what `generate` does besides."""
    caches, queries = text.memory or ((None, None), None)
    ids, mask = text.ids, text.mask
    new = ids if queries is None else ids[:, -1:]
    for _ in range(tokens):
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new.shape[1] :]
        inputs = {"input_ids": new, "attention_mask": mask, "position_ids": places, "use_cache": True}
        found = [one.model(**inputs, past_key_values=cache) for one, cache in zip((trio.base, trio.tuned), caches, strict=True)]
        caches = tuple(one.past_key_values for one in found)
        states = Pair(*(one.last_hidden_state for one in found))
        queries = means(states, mask) if queries is None else queries
        new = next_logits(trio, states[:, -1], queries, torch.arange(len(ids))).argmax(dim=-1, keepdim=True)
        ids, mask = torch.cat([ids, new], dim=1), functional.pad(mask, (0, 1), value=1)
    return text.longer(ids, (caches, queries))


def means(states: Pair, mask: torch.Tensor) -> Pair:
    """The mean states of prompts, [rows, hidden] each."""
    return Pair(*((one * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True) for one in (states.base, states.tuned)))


def next_logits(trio: Trio, last: Pair, queries: Pair, of: torch.Tensor) -> torch.Tensor:
    """What follows some tokens' states, [rows, vocabulary]."""
    found: torch.Tensor = trio.base.get_output_embeddings()(mixed(trio.gate(last, queries, of), last))
    return found


def check(trio: Trio, start: Text, found: Mapping[str, Text]) -> None:
    """Makes sure that the ways write the same, and neither the base's text nor its twin's.

    Raises:
        RuntimeError: They do not.
    """
    ours = found["siamese"].ids
    if not torch.equal(ours, found["two passes"].ids):
        raise RuntimeError("two passes write other tokens than the siamese model")
    with trio.siamese.siamese.alone("tuned"):
        twin = generated(trio.siamese, start, SOME).ids
    if not torch.equal(twin, found["alone"].ids[:, : WIDTH + SOME]):
        raise RuntimeError("the siamese model's twin writes other tokens than the adapter alone")
    if any(torch.equal(ours[:, : WIDTH + SOME], one) for one in (twin, generated(trio.base, start, SOME).ids)):
        raise RuntimeError("the siamese model writes what one of its two does: nothing is mixed")


def uncached(bench: Bench, name: str, trio: Trio, start: Text) -> None:
    """Times two passes over the whole text for every token, at some of the tokens, beside a whole text of ours."""
    ids = generated(trio.siamese, start, TOKENS).ids
    ways: dict[str, Step] = {"siamese": partial(generated, trio.siamese, start, TOKENS)}
    for number in range(UNCACHED):
        place = WIDTH + (2 * number + 1) * TOKENS // (2 * UNCACHED)
        ways[f"at {place}"] = step = partial(next_without_cache, trio, ids[:, :place])
        if step() != ids[0, place]:
            raise RuntimeError(f"the loop without a cache writes another token {place - WIDTH} than the siamese model")
    name = f"{name}: {TOKENS} tokens, batch 1, two passes without a cache"
    found = {way: one.seconds for way, one in bench.in_turn(name, {way: lambda step=step: step for way, step in ways.items()}).items()}
    bench.add(name, found.pop("siamese") / (sum(found.values()) * TOKENS / UNCACHED), GOALS["uncached"])


@torch.no_grad()
def next_without_cache(trio: Trio, ids: torch.Tensor) -> int:
    """The token behind a text, of one row, whose prompt is its first `WIDTH` tokens."""
    states = Pair(*(one.model(input_ids=ids, use_cache=False).last_hidden_state for one in (trio.base, trio.tuned)))
    queries = means(states[:, :WIDTH], torch.ones_like(ids[:, :WIDTH]))
    return int(next_logits(trio, states[:, -1], queries, torch.arange(1)).argmax())


def training(bench: Bench, name: str, trio: Trio, *, checkpointing: bool) -> None:
    """Times training steps, which change the trio."""
    batch = labelled()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
    for one in (trio.siamese, trio.tuned):
        one.train()
        if checkpointing:
            one.gradient_checkpointing_enable({"use_reentrant": False})
    steps = {"siamese": partial(learner(trio.siamese), batch), "alone": partial(learner(trio.tuned), batch)}
    before = {"siamese": checked_step(trio, steps["siamese"], batch), "alone": steps["alone"]()}
    name = f"{name}: training step of {ROWS} x {LENGTH} tokens{', checkpointing' if checkpointing else ''}, the adapter alone"
    found = bench.in_turn(name, {way: lambda step=step: step for way, step in steps.items()})
    for way, step in steps.items():
        if not step() < before[way]:
            raise RuntimeError(f"{way}: the loss does not fall")
    bench.add(name, found["siamese"].seconds / found["alone"].seconds, GOALS["training"])


def labelled() -> dict[str, torch.Tensor]:
    """A batch as the collator makes it, of random tokens, the second half of each row being the answer."""
    ids = torch.randint(3, SIZES["vocab_size"], (ROWS, LENGTH), generator=torch.Generator().manual_seed(5))
    labels, none = ids.clone(), torch.zeros_like(ids)
    labels[:, : LENGTH // 2] = IGNORED
    return {"input_ids": ids, "attention_mask": none + 1, "labels": labels, "text_only": none == 0, "sources": none}


def learner(model: Any) -> Callable[[Mapping[str, torch.Tensor]], float]:
    """Learns a batch as `train` does, to its loss before; leaves the gradients where they are until the next one."""
    head = LossHead(model)
    objective = Objective([LossConfig(kind="cross_entropy")], {}, head, ["bench"])
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)

    def step(batch: Mapping[str, torch.Tensor]) -> float:
        optimizer.zero_grad()
        rows = labelled_rows(batch, with_prompts=objective.needs_prompts)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        with head.installed():
            loss = objective.loss(model, rows, inputs, {}, objective.shares(objective.counts(rows)))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def checked_step(trio: Trio, step: Step, batch: Mapping[str, torch.Tensor]) -> float:
    """The siamese model's first step, which must have loss and gradients of two models.

    Raises:
        RuntimeError: It has not.
    """
    ids, half = batch["input_ids"], LENGTH // 2
    with torch.no_grad():
        base = trio.base.model(input_ids=ids, use_cache=False).last_hidden_state
    states = Pair(base, trio.tuned.model(input_ids=ids, use_cache=False).last_hidden_state)
    last = Pair(*(one[:, half - 1 : -1].flatten(0, 1) for one in (states.base, states.tuned)))
    queries = means(states[:, :half], torch.ones_like(ids[:, :half]))
    logits = next_logits(trio, last, queries, torch.arange(ROWS).repeat_interleave(half))
    expected = functional.cross_entropy(logits, ids[:, half:].flatten())
    gradients = torch.autograd.grad(expected, [*trained(trio.tuned), *trio.gate.parameters()])
    loss = float(step())
    if abs(loss - expected.item()) > SAME * expected.item():
        raise RuntimeError(f"the siamese model's loss is {loss}, that of two models {expected.item()}")
    for number, (one, other) in enumerate(zip((*trained(trio.siamese), *trio.gate.parameters()), gradients, strict=True)):
        if not 0 < (one.grad - other).norm() + other.norm() < (1 + SAME) * other.norm():
            raise RuntimeError(f"the siamese model's gradient {number} is not that of two models, or zero")
    return loss


if __name__ == "__main__":
    sys.exit(main())
