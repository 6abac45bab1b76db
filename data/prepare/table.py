"""All data sets that `perennial prepare` knows."""

import difflib

from data.prepare.cub import CUB
from data.prepare.llava import LLAVA_558K, LLAVA_665K
from data.prepare.pathvqa import PATHVQA
from data.prepare.pixmo import PIXMO_COUNT
from data.prepare.spec import DatasetSpec
from data.prepare.textvqa import TEXTVQA
from data.prepare.timeclock import TIMECLOCK

SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in (LLAVA_558K, LLAVA_665K, CUB, PIXMO_COUNT, PATHVQA, TEXTVQA, TIMECLOCK)}


def find(name: str) -> DatasetSpec:
    """The data set of a name.

    Raises:
        ValueError: There is none; the message lists all, nearest first.
    """
    if name not in SPECS:
        near = difflib.get_close_matches(name, SPECS, n=len(SPECS), cutoff=0.0)
        raise ValueError(f"unknown data set {name!r}; did you mean {near[0]!r}? Known, nearest first: {', '.join(near)}")
    return SPECS[name]
