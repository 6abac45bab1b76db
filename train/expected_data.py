"""What a run would read, as far as its files are here."""

from dataclasses import dataclass, field, replace
from typing import Any

from data.config import HUB, DataConfig, SourceConfig
from model.config import ModelConfig
from train.config import Recipe
from train.makers import Makers


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a run's data before it starts; None: not known.

    Attributes:
        sources: For each its path with what is known: records, samples, epochs, left_out, or why it was not read.
        steps: Optimizer steps.
        tokens: Real tokens in all steps, padding not counted.
        images: Pictures in all steps.
        width: Tokens of the longest row.
        most_images: Pictures of the row that has most.
        notes: What else there is to say.
    """

    sources: list[dict[str, Any]]
    steps: int | None
    tokens: int | None = None
    images: int | None = None
    width: int
    most_images: int | None = None
    notes: list[str] = field(default_factory=list)


def look(recipe: Recipe, model: Any, local: ModelConfig | None, makers: Makers) -> Expected:
    """Indexes what is here, as training does; plans the steps where all of it is.

    Args:
        recipe: Its `data` and `train` sections.
        model: On the meta device.
        local: The model section with folders of this machine; None where the model's own files are not here.
        makers: Know what writes that which is not here.

    Raises:
        ValueError: Training would refuse the data.
    """
    assert recipe.data is not None
    rows: list[dict[str, Any]] = [{"path": source.path} for source in recipe.data.sources]
    here = [number for number, source in enumerate(recipe.data.sources) if _is_here(source)]
    for number, source in enumerate(recipe.data.sources):
        if number not in here:
            away = f"not here yet: {makers.command(source.path, source.format)}"
            rows[number]["not_read"] = "on the hub, which a dry run does not ask" if source.path.startswith(HUB) else away
    unknown = Expected(sources=rows, steps=recipe.train.steps, width=recipe.data.longest)
    if not here:
        return unknown
    processor, problem = _processor(local)
    if processor is None:
        for number in here:
            rows[number] |= {"records": _count(recipe.data.sources[number]), "not_read": problem}
        return _counted(recipe, unknown) if len(here) == len(rows) else unknown
    sources = _indexed(recipe.data, here, processor, recipe.train.seed)
    for number, one in zip(here, sources, strict=True):
        rows[number] |= {"records": one.index.records, "samples": len(one.rows), "left_out": one.bad_records}
    return unknown if len(here) < len(rows) else _planned(recipe, model, sources, rows)


def _planned(recipe: Recipe, model: Any, sources: list[Any], rows: list[dict[str, Any]]) -> Expected:
    from data.dataset import per_sample
    from model.attention import this_machine, tree_obstacle
    from train.rows import join_dialogues, plan_order

    assert recipe.model is not None
    obstacle = tree_obstacle(recipe.model.attention, model, this_machine())
    sources = join_dialogues(sources, recipe, obstacle is None, progress=False)
    plan = plan_order(sources, recipe, progress=False).plan
    tokens, images = (plan.per_row(per_sample(sources, plan, name)) for name in ("tokens", "num_images"))
    for row, epochs in zip(rows, plan.epochs([len(one) for one in sources]), strict=True):
        row["epochs"] = round(epochs, 4)
    assert recipe.data is not None
    width = recipe.data.packing.length if recipe.data.packing is not None else int(tokens.max())
    return Expected(
        sources=rows,
        steps=plan.steps,
        tokens=int(tokens.sum()),
        images=int(images.sum()),
        width=width,
        most_images=int(images.max()),
        notes=[f"dialogues of trees stay apart on this machine: {obstacle}"] if _would_join(recipe) and obstacle is not None else [],
    )


def _counted(recipe: Recipe, unknown: Expected) -> Expected:
    """Steps and epochs by numbers of records alone, where the lengths of samples do not matter."""
    import numpy as np

    from data.mixture import Source
    from data.plan import Amount, make_plan

    config, train = recipe.data, recipe.train
    assert config is not None
    if config.packing is not None or config.text_share is not None or config.share_by == "tokens":
        return unknown
    sizes = [min(row["records"], one.max_records or row["records"]) for row, one in zip(unknown.sources, config.sources, strict=True)]
    sources = [
        Source(name=one.path, size=size, weight=one.weight, share=one.share, max_epochs=one.max_epochs)
        for one, size in zip(config.sources, sizes, strict=True)
    ]
    amount = Amount(batch_size=train.batch_size, steps=train.steps, epochs=train.epochs)
    plan = make_plan(sources, [np.ones(size, np.int64) for size in sizes], config, amount, train.seed)
    for row, epochs in zip(unknown.sources, plan.epochs(sizes), strict=True):
        row["epochs"] = round(epochs, 4)
    return replace(unknown, steps=plan.steps, notes=["steps and epochs as if every record were good"])


def _would_join(recipe: Recipe) -> bool:
    from train.rows import joins_trees

    assert recipe.data is not None
    return joins_trees(recipe, can=True) and any(source.format == "tree" for source in recipe.data.sources)


def _indexed(config: DataConfig, here: list[int], processor: Any, seed: int) -> list[Any]:
    from data.dataset import check_shares, load_sources
    from data.pictures import pictures_of
    from model.processor import tokenizer_of

    part = config.model_copy(update={"sources": tuple(config.sources[number] for number in here)})
    sources = load_sources(part, tokenizer_of(processor), pictures_of(processor), seed=seed)
    check_shares(sources, config.max_bad_share)
    return sources


def _processor(local: ModelConfig | None) -> tuple[Any, str]:
    """The model's processor, or why there is none."""
    if local is None:
        return None, "the model's tokenizer is not here"
    from model.build import load_processor

    try:
        return load_processor(local), ""
    except (OSError, ValueError) as problem:
        return None, f"the model's processor cannot be loaded ({' '.join(str(problem).split())[:200]})"


def _count(source: SourceConfig) -> int:
    from data.containers import raw_records

    return sum(1 for _ in raw_records(source))


def _is_here(source: SourceConfig) -> bool:
    from data.containers import files_of

    try:
        return bool(files_of(source))  # none of a data set on the hub
    except FileNotFoundError:
        return False
