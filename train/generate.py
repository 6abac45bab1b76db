"""The `perennial generate` sub-command: a model writes down what it knows as a tree of dialogues."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.trees.plan import TreeConfig
    from train.config import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial generate` takes."""
    parser.add_argument("recipe", help="YAML file with the sections model and tree, and the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="folder to write, in place of the recipe's; an unfinished tree in it is continued")
    parser.add_argument("--children", metavar="100,1,10,1", help="children of each node, layer by layer, in place of the recipe's")
    parser.add_argument("--dry-run", action="store_true", help="print what would grow (nodes, dialogues, tokens, disk), then stop")
    parser.add_argument("--tokens-per-second", type=float, metavar="N", help="with --dry-run: also print the hours it takes at this speed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --tree.seed 1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Grows a tree as the recipe says; prints its counts."""
    from train.config import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides).need("tree")
    assert recipe.tree is not None
    plan = _with_children(recipe.tree, arguments.children)
    if arguments.dry_run:
        _print(_estimate(plan, arguments.tokens_per_second), as_json=arguments.json)
        return 0
    output = arguments.output or recipe.output
    if output is None:
        raise ValueError(f"{arguments.recipe}: output: missing; add the folder to write to the recipe, or give --output DIR")
    recipe = recipe.need("model")
    assert recipe.model is not None

    from model.build import load

    model, processor = load(recipe.model, plan.seed)
    try:
        result = generate(plan, _on_device(model), processor, output, progress=sys.stderr.isatty() or not arguments.json)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished layers are in {output}; the same command goes on from there") from None
    _print(result if arguments.json else _short(result), as_json=arguments.json)
    return 0


def generate(config: "Recipe | TreeConfig", model: Any, tokenizer: Any, folder: str | Path, progress: bool = True) -> dict[str, Any]:
    """Grows a tree with a model in memory; exports its dialogues.

    A folder that holds unfinished growth of the same plan and model is continued; a finished one is only exported again.

    Args:
        config: A recipe with a `tree` section, or such a section.
        model: A causal language model or a LLaVA-style model of transformers; stays where it is.
        tokenizer: Its tokenizer, or the processor that holds it.
        folder: Gets `tree.jsonl`, `manifest.json`, `dialogues.json` (LLaVA format), `report.json`.
        progress: Whether to show a bar.

    Returns:
        The report, with `folder`, the path `dialogues_file`, and `source`: the entry for a recipe's `data.sources`.

    Raises:
        ValueError: No usable chat template, turns too long for the model, or a folder with another tree.
        RuntimeError: Not one dialogue came out; the counts of what was dropped are in the message.
    """
    from data.trees.export import choose, paths, to_llava
    from data.trees.folder import DIALOGUES, TreeFolder
    from data.trees.grow import grow
    from data.trees.plan import TreeConfig
    from data.trees.progress import Bar
    from data.trees.report import make_report
    from data.trees.transformers_engine import TransformersEngine

    plan = config if isinstance(config, TreeConfig) else config.need("tree").tree
    assert plan is not None
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    engine = TransformersEngine(model, tokenizer, plan.engine.batch_size)
    home = TreeFolder(folder, *_describe(plan, model, tokenizer))
    bar = Bar(plan, len(home.tree.layers), enabled=progress)
    try:
        tree = grow(plan, engine, tokenizer, embed=engine.embed, folder=home, progress=bar)
    finally:
        bar.close()
    dialogues = list(paths(tree.nodes))
    exported = choose(dialogues, plan.sample, plan.seed)
    report = make_report(plan, tree, dialogues, exported)
    if not dialogues:
        raise RuntimeError(
            f"the model wrote no dialogue (of {report['sampled']} turns dropped: {report['dropped']}); {_advice(report['dropped'])}"
        )
    home.finish([to_llava(path, plan.system) for path in exported], report)
    path = home.path / DIALOGUES
    source = {"path": str(path), "format": "llava", "loss_on": plan.loss_on}
    return {**report, "folder": str(home.path), "dialogues_file": str(path), "source": source}


def _describe(plan: "TreeConfig", model: Any, tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the tree, then further facts for the manifest; refuses a plan whose dialogues the model cannot hold."""
    from data.trees.openers import derive, prompt_ids
    from data.trees.provenance import versions, weights_hash

    openers = derive(tokenizer, system=plan.system)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    marks = len(prompt_ids(openers.root, tokenizer)) + sum(
        len(prompt_ids(openers.after[plan.role(layer)], tokenizer)) for layer in range(plan.depth - 1)
    )
    if limit is not None and marks + sum(plan.max_tokens) > limit:
        raise ValueError(
            f"tree.max_tokens {list(plan.max_tokens)} makes dialogues of up to {marks + sum(plan.max_tokens)} tokens "
            f"({marks} of them the template's), the model has {limit} positions; make turns shorter or the tree shallower"
        )
    grown = plan.model_dump(mode="json", exclude={"sample", "loss_on", "shape"})
    identity = {"plan": grown, "weights_sha256": weights_hash(model), "template_sha256": openers.template_hash}
    about = {"model": model.name_or_path or type(model).__name__, "seed": plan.seed, "loss_on": plan.loss_on, "versions": versions()}
    return identity, about


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
    if tokens_per_second is not None:
        if tokens_per_second <= 0:
            raise ValueError(f"--tokens-per-second: got {tokens_per_second}, expected a number above 0")
        estimate["hours_at_most"] = round(plan.tokens / tokens_per_second / 3600, 2)
    return estimate


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """The lines that a person wants to see."""
    names = "nodes dialogues exported_dialogues tokens yield dropped unanswered_questions seconds nodes_per_second dialogues_file"
    return {name: result[name] for name in names.split()}


def _print(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
        return
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) else value}")


def _advice(dropped: dict[str, int]) -> str:
    if dropped and max(dropped, key=lambda reason: dropped[reason]) == "unfinished":
        return "raise tree.max_tokens, or use a model that was trained on chats with this template"
    return "use a model that was trained on chats with this template, or lower tree.temperature"
