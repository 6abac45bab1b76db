"""Two ranks for the whole session: starting them costs more than most tests."""

from collections.abc import Iterator

import pytest
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
