"""One process works for all: the others wait for it, and fail with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train.sequence_record as module
from train.sequence_record import first_alone

NAME = "one-of-this-call"


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Makes this process one of two; gives what it waits for."""

    def make(rank: int) -> list[str]:
        waits: list[str] = []
        monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
        monkeypatch.setattr(module.distributed, "is_first", lambda: rank == 0)
        monkeypatch.setattr(module.distributed, "everywhere", lambda value: [NAME, NAME])
        monkeypatch.setattr(module.distributed, "wait", lambda: waits.append("barrier"))
        return waits

    return make


def no_work() -> None:
    raise AssertionError("only the first works")


def fail() -> None:
    raise ValueError("the disk is full")


def marks(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{module.DONE}*"))


def test_the_others_wait_until_the_first_is_done(as_rank: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = as_rank(1)
    (tmp_path / f"{module.DONE}an-earlier-one").write_text("")

    def later(_: float) -> None:
        waits.append("sleep")
        (tmp_path / f"{module.DONE}{NAME}").write_text("")

    monkeypatch.setattr(module.time, "sleep", later)
    first_alone(tmp_path, no_work)
    assert waits == ["sleep", "barrier"]


def test_the_others_fail_with_the_first_and_meet_no_barrier(as_rank: Any, tmp_path: Path) -> None:
    waits = as_rank(0)
    with pytest.raises(ValueError, match="the disk is full"):
        first_alone(tmp_path, fail)
    as_rank(1)
    with pytest.raises(RuntimeError, match="the first process failed while the others waited for it: ValueError: the disk is full"):
        first_alone(tmp_path, no_work)
    assert waits == []


def test_what_a_failed_call_left_is_swept_up_by_the_next(as_rank: Any, tmp_path: Path) -> None:
    as_rank(0)
    (tmp_path / f"{module.DONE}an-earlier-one").write_text("ValueError: the disk is full")
    first_alone(tmp_path, lambda: None)
    assert marks(tmp_path) == []


def test_a_process_alone_leaves_no_mark(tmp_path: Path) -> None:
    seen: list[Path] = []
    first_alone(tmp_path, lambda: seen.extend(marks(tmp_path)) or seen.append(tmp_path))
    assert seen == [tmp_path]
