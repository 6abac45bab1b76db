"""Models with samples to pack, shared by the tests of attention."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packed_rows import Case, in_mode, make_case

from model.attention import use


@pytest.fixture(scope="module")
def case_of(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """Gives a family's case with its model switched to a kernel; each model is made once."""
    made: dict[str, Case] = {}

    def case(family: str, name: str) -> Case:
        if family not in made:
            made[family] = make_case(family, family_folder, tmp_path_factory.mktemp("pictures"))
        use(made[family].model, name)
        return made[family]

    return case


@pytest.fixture
def case(request: pytest.FixtureRequest, case_of: Callable[[str, str], Case]) -> Iterator[Case]:
    """The case of (family, kernel, mode)."""
    family, name, mode = request.param
    with in_mode(case_of(family, name), mode) as case:
        yield case
