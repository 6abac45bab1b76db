"""The rows of a run: planned, dealt out to processes, laid out in batches."""

import sys
from collections.abc import Sequence

from data.collate import Layout
from data.dataset import MixedDataset, Samples, per_sample
from data.packing import advice
from data.plan import Amount, dealt, make_plan
from data.position import Reading
from train import distributed
from train.config import Recipe, TrainConfig


def plan_order(sources: Sequence[Samples], recipe: Recipe, progress: bool) -> Reading:
    """Step 5 of a run: which sample stands in which row, over all steps."""
    assert recipe.data is not None
    config, train = recipe.data, recipe.train
    amount = Amount(batch_size=train.batch_size, steps=train.steps, epochs=train.epochs)
    plan = make_plan([one.source for one in sources], [one.tokens for one in sources], config, amount, train.seed)
    for one, epochs in zip(sources, plan.epochs([len(one) for one in sources]), strict=True):
        tell(f"{one.config.path}: {len(one)} samples, {epochs:.2f} epochs", progress)
    if config.packing is not None:
        tokens = per_sample(sources, plan, "tokens")
        tell(f"packed rows of {config.packing.length} tokens are {plan.per_row(tokens).mean() / config.packing.length:.2%} full", progress)
        hint = advice(float(tokens.mean()), config.packing.length)
        if hint is not None:
            tell(hint, progress)
    return Reading(plan=plan, sources=sources, config=config, seed=train.seed, processes=distributed.world_size())


def micro_batches(config: TrainConfig, processes: int) -> tuple[int, int]:
    """Rows of one forward pass of one process, such passes of a process in one step.

    Raises:
        ValueError: The batch does not divide among the processes and their micro batches.
    """
    micro = config.micro_batch_size or max(1, config.batch_size // processes)
    accumulation, rest = divmod(config.batch_size, micro * processes)
    if rest or accumulation == 0:
        needed = f"{micro} (micro_batch_size) x {processes} (processes)"
        raise ValueError(f"train.batch_size {config.batch_size} is not a multiple of {needed}; change one of them")
    return micro, accumulation


def deal_out(recipe: Recipe, reading: Reading) -> MixedDataset:
    """The planned rows, each step's dealt out to the passes of all processes."""
    _, accumulation = micro_batches(recipe.train, reading.processes)
    images, tokens = (per_sample(reading.sources, reading.plan, name) for name in ("num_images", "tokens"))
    return MixedDataset(reading.sources, dealt(reading.plan, images, tokens, groups=accumulation * reading.processes))


def layout_of_rows(recipe: Recipe) -> Layout:
    """How the collator puts samples together."""
    assert recipe.data is not None
    assert recipe.model is not None
    if recipe.data.packing is None:
        return "padded"
    return "flat" if recipe.model.attention.startswith("flash") else "packed"


def tell(text: str, progress: bool) -> None:
    """Prints a line for the person who waits."""
    if progress and distributed.is_first():
        print(text, file=sys.stderr)
