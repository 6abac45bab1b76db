"""The `perennial generate` sub-command: a model writes down what it knows as a tree of dialogues."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.trees.plan import TreeConfig
    from data.trees.writers import Writer
    from train.config import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial generate` takes."""
    parser.add_argument("recipe", help="YAML file with the sections model and tree, and the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="folder to write, in place of the recipe's; an unfinished tree in it is continued")
    parser.add_argument("--children", metavar="100,1,10,1", help="children of each node, layer by layer, in place of the recipe's")
    parser.add_argument("--dry-run", action="store_true", help="print what would grow (nodes, dialogues, tokens, disk), then stop")
    parser.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="N",
        help="with --dry-run: the speed to reckon hours with; default: as measured in DIR so far",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--part", metavar="I/N", help="grow only part I (from 0) of N, in DIR/parts/; several can grow at once, anywhere")
    parser.add_argument("--merge", action="store_true", help="join the parts in DIR/parts/ to the tree of DIR")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --tree.seed 1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Grows a tree as the recipe says; prints its counts."""
    from train.config import load_recipe

    overrides = list(arguments.overrides)
    if arguments.part is not None:
        overrides += _part(arguments.part)
    recipe = load_recipe(arguments.recipe, overrides).need("tree")
    assert recipe.tree is not None
    plan = _with_children(recipe.tree, arguments.children)
    output = arguments.output or recipe.output
    if arguments.tokens_per_second is not None and not arguments.dry_run:
        raise ValueError("--tokens-per-second has no effect without --dry-run; leave it out, or add --dry-run")
    if arguments.dry_run:
        rate = arguments.tokens_per_second if arguments.tokens_per_second is not None else _measured(output)
        _print(_estimate(plan, rate), as_json=arguments.json)
        return 0
    if output is None:
        raise ValueError(f"{arguments.recipe}: output: missing; add the folder to write to the recipe, or give --output DIR")
    progress = sys.stderr.isatty() or not arguments.json
    try:
        result = _generate(plan, recipe, output, merge=arguments.merge, progress=progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is finished is in {output}; the same command goes on from there") from None
    _print(_numbers(result) if arguments.json else _short(result), as_json=arguments.json)
    return 0


def generate(config: "Recipe | TreeConfig", model: Any, processor: Any, folder: str | Path, progress: bool = True) -> dict[str, Any]:
    """Grows a tree with a model in memory; exports its dialogues, reports on it.

    Args:
        config: A recipe with a `tree` section, or such a section.
        model: A causal language model or a LLaVA-style model of transformers; stays where it is.
        processor: Its processor, or its tokenizer alone.
        folder: Gets `manifest.json`, `shards/`, the exports, the report.
        progress: Whether to show a bar.

    Returns:
        As `data.trees.make.grow_tree`, which also says what it raises.
    """
    from data.trees.make import grow_tree
    from data.trees.plan import TreeConfig
    from data.trees.writers import in_memory
    from model.processor import tokenizer_of

    plan = config if isinstance(config, TreeConfig) else config.need("tree").tree
    assert plan is not None
    if plan.engine.kind != "transformers" or plan.corpus is not None or plan.parts > 1:
        raise ValueError("a model in memory grows a whole tree with engine transformers; perennial generate does the rest")
    return grow_tree(plan, in_memory(model, tokenizer_of(processor), plan.engine.batch_size), folder, progress=progress)


def _generate(plan: "TreeConfig", recipe: "Recipe", output: str, *, merge: bool, progress: bool) -> dict[str, Any]:
    """Grows, merges or sifts, as the recipe says."""
    from data.trees.make import grow_tree, merge_parts, sift_corpus
    from data.trees.merge import part_folder
    from model.build import load_processor
    from model.processor import tokenizer_of

    if merge or plan.corpus is not None:
        needs_model = plan.dedup.embeddings == "states" and plan.engine.kind == "transformers"
        writer = open_writer(plan, recipe) if needs_model else None
        states = writer.embed if writer is not None else None
        if merge:
            return merge_parts(plan, output, states=states)
        tokenizer = None if recipe.model is None else tokenizer_of(load_processor(recipe.model))
        return sift_corpus(plan, output, tokenizer=tokenizer, states=states, progress=progress)
    folder = part_folder(output, plan.part, plan.parts) if plan.parts > 1 else Path(output)
    return grow_tree(plan, open_writer(plan, recipe), folder, progress=progress)


def open_writer(plan: "TreeConfig", recipe: "Recipe") -> "Writer":
    """What the recipe's engine needs: a model in memory, or the tokenizer alone for engines that load or reach the model themselves."""
    from data.trees.writers import in_memory, offline, served
    from model.build import end_ids_of, load, load_processor
    from model.processor import tokenizer_of
    from model.source import folder_of

    config = recipe.need("model").model
    assert config is not None
    if plan.engine.kind == "transformers":
        model, processor = load(config, plan.seed)
        return in_memory(_placed(model), tokenizer_of(processor), plan.engine.batch_size)
    tokenizer = tokenizer_of(load_processor(config))
    if plan.engine.kind == "endpoint":
        return served(plan.engine, tokenizer, end_ids_of(config))
    if config.base is None:
        raise ValueError("tree.engine.kind vllm loads a saved model; assemble it (perennial assemble), then name its folder as model.base")
    return offline(plan.engine, folder_of(config.base), tokenizer, end_ids_of(config))


def _placed(model: Any) -> Any:
    """On a GPU in bf16 where there is one; on the CPU as loaded, in fp32."""
    import torch

    return model.to("cuda", torch.bfloat16) if torch.cuda.is_available() else model


def _part(words: str) -> list[str]:
    part, slash, parts = words.partition("/")
    if not (slash and part.isdigit() and parts.isdigit()):
        raise ValueError(f"--part: got {words!r}, expected a part and the number of parts such as 0/8")
    return ["--tree.part", part, "--tree.parts", parts]


def _with_children(plan: "TreeConfig", children: str | None) -> "TreeConfig":
    if children is None:
        return plan
    from pydantic import ValidationError

    try:
        numbers = tuple(int(word) for word in children.split(","))
    except ValueError:
        raise ValueError(f"--children: got {children!r}, expected whole numbers such as 100,1,10,1") from None
    try:
        return plan.with_children(numbers)
    except ValidationError as error:
        reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ValueError(f"--children {children}: {reasons}") from None


def _estimate(plan: "TreeConfig", tokens_per_second: float | None) -> dict[str, Any]:
    estimate = plan.summary()
    if tokens_per_second is not None and plan.corpus is None:
        if tokens_per_second <= 0:
            raise ValueError(f"--tokens-per-second: got {tokens_per_second}, expected a number above 0")
        hours = round(plan.tokens / tokens_per_second / 3600, 2)
        estimate |= {"tokens_per_second": round(tokens_per_second, 1), "hours_at_most": hours}
    return estimate


def _measured(output: str | None) -> float | None:
    """Tokens/s of what has grown in a folder so far; None where there is nothing."""
    from data.trees.folder import is_tree, read_tree

    if output is None or not is_tree(Path(output)):
        return None
    layers = read_tree(Path(output)).layers
    seconds = sum(layer["seconds"] for layer in layers)
    return sum(layer["tokens"] for layer in layers) / seconds if seconds else None


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """All but what is there for the page alone."""
    return {name: value for name, value in result.items() if name not in ("map", "samples")}


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """The lines that a person wants to see."""
    if "page" not in result:  # the histogram alone was asked for
        return result
    names = "nodes dialogues exported_dialogues tokens yield dropped unanswered_questions seconds nodes_per_second folder page"
    return {name: result[name] for name in names.split()}


def _print(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
        return
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) else value}")
