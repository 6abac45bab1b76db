"""A quicker import of transformers' Trainer."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_datasets() -> Iterator[None]:
    """Lets modules imported inside believe that `datasets` is not installed.

    The Trainer imports it, with pandas and pyarrow, only to recognise its own data set class, which no run here uses.
    """
    from transformers import utils
    from transformers.utils import import_utils

    asked = import_utils.is_datasets_available
    import_utils.is_datasets_available = utils.is_datasets_available = lambda: False
    try:
        yield
    finally:
        import_utils.is_datasets_available = utils.is_datasets_available = asked
