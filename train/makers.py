"""Which command writes a file or folder that is not here yet."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from model.config import ModelConfig
from train.config import RECIPES, Recipe

WORLD = "runs/terrarium"  # where `perennial terrarium` writes unless told otherwise


class Makers:
    """The recipes beside a recipe, and the project's own, by what they write.

    Args:
        recipe: The file of the one that is looked at, which makes nothing for itself.
    """

    def __init__(self, recipe: Path) -> None:
        folders = dict.fromkeys([recipe.parent.resolve(), RECIPES.resolve()])
        self._files = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.resolve() != recipe.resolve()]

    def model(self, name: str) -> tuple[ModelConfig, str] | None:
        """The model section of the recipe that writes a model folder, with the recipe's file; None where no recipe does."""
        for path, recipe in self._writing(name):
            if recipe.model is not None and recipe.tree is None:
                return recipe.model, str(path)
        return None

    def command(self, name: str, kind: str = "llava") -> str:
        """What to do to get a data file or folder of a format, in words."""
        from data.prepare.table import SPECS

        parts = PurePosixPath(name).parts
        known = next((part for part in parts if part in SPECS), None)
        if known is not None:
            return f"perennial prepare {known} --output {PurePosixPath(*parts[: parts.index(known) + 1])}"
        if name.startswith(f"{WORLD}/"):
            return "perennial terrarium"
        for path, recipe in self._writing(name):
            return f"perennial {'generate' if recipe.tree is not None else 'train'} {path}"
        return f"perennial generate RECIPE --output {name}" if kind == "tree" else "write it, or correct the path"

    def _writing(self, name: str) -> Iterator[tuple[Path, Recipe]]:
        """Recipes whose output holds a path."""
        for path in self._files:
            recipe = _read(path)
            if recipe is not None and recipe.output is not None and PurePosixPath(name).is_relative_to(recipe.output):
                yield _short(path), recipe


def _short(path: Path) -> Path:
    """As one would write it here."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path


def _read(path: Path) -> Recipe | None:
    """A recipe, or None for a YAML file that is none."""
    from train.config import load_recipe

    try:
        return load_recipe(path, check_files=False)
    except ValueError:
        return None
