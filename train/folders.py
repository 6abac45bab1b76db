"""Folders named after steps, which come and go by one rename."""

import shutil
from pathlib import Path

PREFIX = "step-"


def numbered(folder: Path) -> list[Path]:
    """The folders step-N in a folder, by their numbers."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()), key=step_of)


def step_of(folder: Path) -> int:
    """The step that a folder is named after."""
    return int(folder.name.removeprefix(PREFIX))


def put_in_place(partial: Path, target: Path) -> None:
    """Gives a complete folder its name; one that has it goes first, whole."""
    remove(target)
    partial.replace(target)


def remove(folder: Path) -> None:
    """Removes a folder; whoever looks meanwhile, or after a crash on the way, finds it whole or not at all."""
    if not folder.exists():
        return
    going = folder.with_name(f".{folder.name.lstrip('.')}.going")
    shutil.rmtree(going, ignore_errors=True)
    folder.replace(going)
    shutil.rmtree(going)
