"""The pool of ranks itself: what it gives, how it tells of hangs, errors, deaths."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import RankFailure, Ranks


def nothing() -> None:
    """So that ranks start at once, without torch."""


def who(word: str) -> tuple[str, str, int]:
    return os.environ["RANK"], word, os.getpid()


def sum_over_ranks(number: int) -> float:
    import torch

    from train import distributed

    total = torch.tensor(float(number + distributed.is_first()))
    torch.distributed.all_reduce(total)
    return total.item()


def wait_without_end() -> None:
    time.sleep(60)


def fail_on_one() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("no such thing")
    wait_without_end()


def die_on_one() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    wait_without_end()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Ranks]:
    """Ranks that never join a group."""
    pool = Ranks(tmp_path, first=nothing)
    yield pool
    pool.close()


def failure(pool: Ranks, job: Any, limit: float = 60.0) -> str:
    with pytest.raises(RankFailure) as found:
        pool.run(job, limit=limit)
    return str(found.value)


def test_each_rank_answers_in_its_place(bare: Ranks) -> None:
    assert [answer[:2] for answer in bare.run(who, word="here")] == [("0", "here"), ("1", "here")]


def test_the_processes_stay_from_job_to_job(bare: Ranks) -> None:
    assert bare.run(who, word="here") == bare.run(who, word="here")


def test_a_job_that_never_ends_is_told_as_a_hang_with_the_stacks_of_all(bare: Ranks) -> None:
    told = failure(bare, wait_without_end, limit=1.0)
    assert "hang: rank 0, 1 not done within 1 s" in told
    assert told.count("in wait_without_end") == 2


def test_an_error_on_one_rank_is_told_while_the_other_waits(bare: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranks.GRACE", 0.2)
    told = failure(bare, fail_on_one)
    assert "rank 1 failed: Traceback" in told
    assert "ValueError: no such thing" in told
    assert "rank 0 waited for it" in told


def test_a_death_is_told_by_its_signal(bare: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranks.GRACE", 0.2)
    assert "rank 1 failed: died: SIGKILL" in failure(bare, die_on_one)


def test_after_a_failure_a_fresh_pool_serves(bare: Ranks) -> None:
    before = {answer[2] for answer in bare.run(who, word="before")}
    failure(bare, wait_without_end, limit=0.2)
    after = {answer[2] for answer in bare.run(who, word="after")}
    assert len(after) == 2
    assert not before & after


def test_the_ranks_of_the_session_are_one_group(ranks: Ranks) -> None:
    assert ranks.run(sum_over_ranks, number=3) == [7.0, 7.0]
