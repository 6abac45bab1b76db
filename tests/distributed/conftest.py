"""Two ranks for the whole session: starting them costs more than most tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arranged import Values, values_of
from ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Iterator[Ranks]:
    """`ranks.run(function, **arguments)` calls a function of a test file on two gloo ranks and gives [result of rank 0, of rank 1]."""
    pool = Ranks(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Iterator[Ranks]:
    """The same with one process: what two ranks are compared with."""
    pool = Ranks(tmp_path_factory.mktemp("alone"), count=1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, make_data: Callable[..., Path]) -> Callable[..., Values]:
    """A recipe's values on the module's records, each call's with a run folder of its own."""
    data = make_data(tmp_path_factory.mktemp("data"))

    def values(base: Path = tiny_folder, **settings: Any) -> Values:
        return values_of(tmp_path_factory.mktemp("runs") / "run", base, data, **settings)

    return values
