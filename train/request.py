"""What `perennial validate` and `perennial preview` are asked to look at: a recipe, or bare files."""

import argparse
from pathlib import Path
from typing import Any

from data.trees.folder import is_tree
from train.config import Recipe, load_recipe, make_recipe

RECIPES = (".yaml", ".yml")
DEFAULT_MODEL = "terrarium"
FORMATS = ("llava", "sharegpt", "messages", "qa", "text", "tree")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares a recipe or files, with the processor to read them with."""
    parser.add_argument("sources", nargs="+", metavar="RECIPE|FILE", help="a recipe (YAML), or data files and folders")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"whose processor is used: a folder or a name; without: the recipe's, for bare files {DEFAULT_MODEL}",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of bare files; without: tree for a folder that `perennial generate` wrote, llava for all else"
    )
    parser.set_defaults(overrides=[])


def read_request(arguments: argparse.Namespace) -> Recipe:
    """The recipe that is asked for; one is made up around bare files.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The recipe is wrong, or stands beside files.
    """
    recipes = [one for one in arguments.sources if one.endswith(RECIPES)]
    if recipes:
        if len(arguments.sources) > 1:
            raise ValueError(f"got {', '.join(arguments.sources)}; give one recipe, or data files alone")
        if arguments.format is not None:
            raise ValueError("--format is for bare files; a recipe says it in data.sources")
        model = [f"--model={{base: {arguments.model}}}"] if arguments.model else []
        recipe = load_recipe(recipes[0], [*model, *arguments.overrides]).need("data")
        return recipe if recipe.model is not None else make_recipe(recipe.model_dump() | {"model": {"base": DEFAULT_MODEL}}, recipes[0])
    values: dict[str, Any] = {
        "model": {"base": arguments.model or DEFAULT_MODEL},
        "data": {"sources": [{"path": one, "format": arguments.format or _format(one)} for one in arguments.sources]},
    }
    return make_recipe(values, where="command line", overrides=arguments.overrides)


def _format(path: str) -> str:
    return "tree" if is_tree(Path(path)) else "llava"
