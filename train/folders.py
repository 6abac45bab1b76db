"""Run folders with one writer, in which folders named after steps come and go by one rename."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from train import distributed

PREFIX = "step-"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a run folder; the lock lies beside it, is held by the first process, ends with it.

    Raises:
        ValueError: Another run writes there.
    """
    if not distributed.is_first():
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise ValueError(f"output: another run writes into {folder}; wait for it, stop it, or give another output") from None


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
