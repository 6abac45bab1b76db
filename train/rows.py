"""The rows of a run: planned, dealt out to processes, laid out in batches."""

import sys
from collections.abc import Sequence
from typing import Any

from data.collate import Layout
from data.dataset import MixedDataset, Samples, join_trees, per_sample
from data.packing import advice
from data.plan import Amount, dealt, make_plan
from data.position import Reading
from model import attention
from train import distributed
from train.config import Recipe, TrainConfig
from train.precision import resolved


def joins_trees(recipe: Recipe, can: bool) -> bool:
    """Whether dialogues of a tree are to share rows.

    Args:
        recipe: Its `data` section says whether rows are packed, whether trees are joined.
        can: Whether the model's attention can tell the branches of a tree apart.
    """
    assert recipe.data is not None
    return can and recipe.data.packing is not None and recipe.data.packing.trees


def join_dialogues(sources: Sequence[Samples], recipe: Recipe, can: bool, progress: bool) -> list[Samples]:
    """Part of step 5: dialogues of a tree share rows, with what they have in common once; arguments as of `joins_trees`."""
    assert recipe.data is not None
    packing, trees = recipe.data.packing, [one for one in sources if one.config.format == "tree"]
    if packing is None or not joins_trees(recipe, can):
        if trees and joins_trees(recipe, can=True):
            tell("dialogues of trees stay apart: this model's attention cannot tell branches in a row from each other", progress)
        return list(sources)
    found = join_trees(sources, packing.length)
    for before, after in zip(sources, found, strict=True):
        if len(after) < len(before):
            sums = f"{after.tokens.sum():,} tokens instead of {before.tokens.sum():,}"
            tell(f"{after.config.path}: {len(before):,} dialogues share prefixes: {sums}", progress)
    return found


def settle_attention(model: Any, sources: Sequence[Samples], recipe: Recipe, progress: bool) -> list[Samples]:
    """Part of step 5: dialogues of trees share rows where they can; the model is switched to the attention kernel for its rows.

    Args:
        model: As it was loaded.
        sources: From `read_data`.
        recipe: What runs.
        progress: Tell whether dialogues of trees share rows.

    Returns:
        The sources, dialogues of trees joined.

    Raises:
        ValueError: The kernel that the recipe names does not go with the rows, the model, the machine or the precision.
    """
    assert recipe.data is not None
    assert recipe.model is not None
    machine, wanted = attention.this_machine(), recipe.model.attention
    joined = join_dialogues(sources, recipe, attention.tree_obstacle(wanted, model, machine) is None, progress)
    packed: attention.Rows = "trees" if any(len(one) < len(one.rows) for one in joined) else "packed"
    rows: attention.Rows = "padded" if recipe.data.packing is None else packed
    kernel = attention.kernel(wanted, model, rows=rows, machine=machine, half=resolved(recipe.train.precision) == "bf16")
    attention.use(model, kernel)
    return joined


def plan_order(sources: Sequence[Samples], recipe: Recipe, progress: bool) -> Reading:
    """Step 5 of a run: which sample stands in which row, over all steps."""
    assert recipe.data is not None
    config, train = recipe.data, recipe.train
    amount = Amount(batch_size=train.batch_size, steps=train.steps, epochs=train.epochs)
    plan = make_plan([one.source for one in sources], [one.tokens for one in sources], config, amount, train.seed)
    for one, epochs in zip(sources, plan.epochs([len(one) for one in sources]), strict=True):
        tell(f"{one.config.path}: {len(one.rows)} samples, {epochs:.2f} epochs", progress)
    if config.packing is not None:
        tokens = per_sample(sources, plan, "tokens")
        tell(f"packed rows of {config.packing.length} tokens are {plan.per_row(tokens).mean() / config.packing.length:.2%} full", progress)
        hint = advice(float(tokens.sum() / per_sample(sources, plan, "dialogues").sum()), config.packing.length)
        if hint is not None:
            tell(hint, progress)
    return Reading(plan=plan, sources=sources, config=config, seed=train.seed, processes=distributed.world_size())


def micro_batches(config: TrainConfig, processes: int) -> tuple[int, int]:
    """Rows of one forward pass of one process, such passes of a process in one step.

    A pass takes as many rows as `micro_batch_size` allows and the process's part of the batch divides into.

    Raises:
        ValueError: The batch does not divide among the processes.
    """
    own, rest = divmod(config.batch_size, processes)
    if rest:
        raise ValueError(f"train.batch_size {config.batch_size} is not a multiple of {processes} (processes); change one of them")
    micro = next(size for size in range(min(config.micro_batch_size or own, own), 0, -1) if own % size == 0)
    return micro, own // micro


def deal_out(recipe: Recipe, reading: Reading) -> MixedDataset:
    """The planned rows, each step's dealt out to the passes of all processes."""
    _, accumulation = micro_batches(recipe.train, reading.processes)
    images, tokens = (per_sample(reading.sources, reading.plan, name) for name in ("num_images", "tokens"))
    return MixedDataset(reading.sources, dealt(reading.plan, images, tokens, groups=accumulation * reading.processes))


def layout_of_rows(recipe: Recipe, kernel: str = "sdpa") -> Layout:
    """How the collator puts samples together for an attention kernel."""
    assert recipe.data is not None
    if recipe.data.packing is None:
        return "padded"
    return "flat" if kernel in attention.FLAT else "packed"


def tell(text: str, progress: bool) -> None:
    """Prints a line for the person who waits."""
    if progress and distributed.is_first():
        print(text, file=sys.stderr)
