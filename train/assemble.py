"""`perennial assemble` and `perennial import`: model folders made of parts, or of an original LLaVA checkpoint."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial assemble` takes."""
    parser.add_argument("recipe", help="YAML file whose section model names vision and language, with the folder to write as `output`")
    parser.add_argument("--output", metavar="DIR", help="model folder to write, in place of the recipe's")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16", help="of the weights on disk (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="--section.key value", help="replace values of the recipe, e.g. --model.image_size 336"
    )


def run(arguments: argparse.Namespace) -> int:
    """Assembles, writes the folder whole or not at all, prints where it lies."""
    from train.config import load_recipe

    options = [f"--output={arguments.output}"] if arguments.output else []
    recipe = load_recipe(arguments.recipe, [*arguments.overrides, *options]).need("model", "output")
    assert recipe.model is not None
    assert recipe.output is not None
    folder = Path(recipe.output)
    if recipe.model.vision is None:
        raise ValueError(f"{arguments.recipe}: model.vision and model.language are missing; {recipe.model.base} is assembled already")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output: {folder} is not empty; give another folder")

    from model.build import load
    from train.checkpoint import save

    model, processor = load(recipe.model, recipe.train.seed)
    save(model, processor, folder, dtype=arguments.dtype)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"model: {folder} ({type(model).__name__}, {count:,} parameters, {arguments.dtype})", file=sys.stderr)
    return 0


def import_add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial import` takes."""
    parser.add_argument("source", type=Path, help="folder of an original LLaVA-1.5 or LLaVA-NeXT checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--vision", metavar="MODEL", help="its CLIP or SigLIP, folder or hub name, where the checkpoint does not hold it")


def import_run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint as a transformers model with its processor; says where."""
    from model.original_llava import import_checkpoint

    print(f"model: {import_checkpoint(arguments.source, arguments.output, vision=arguments.vision)}", file=sys.stderr)
    return 0
