"""One drawn example of a Terrarium skill, with the rule that puts it into train or test."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
TEST_SHARE = 8  # one key in this many belongs to the test split
TEST_SIZE, TRAIN_SIZE = 40, 2000  # samples of each skill, unless told otherwise
PATIENCE = 20_000  # draws in a row without a usable sample after which a skill counts as exhausted


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A short dialogue of one skill.

    Attributes:
        skill: name of the skill, such as "facts".
        key: identity of the content, such as "facts/florin/food/3"; equal keys mean equal content, and the key alone decides the split.
        rounds: pairs of (user text, assistant text), at least one; the texts hold no `<image>` tag.
        system: text of the system turn, if there is one.
        picture: draws the picture that belongs to the first round; `<image>` is added when the sample is written.
    """

    skill: str
    key: str
    rounds: tuple[tuple[str, str], ...]
    system: str | None = None
    picture: "Callable[[], Image] | None" = None

    def __post_init__(self) -> None:
        assert self.rounds, f"sample {self.key} has no round"


def split_of(key: str) -> Split:
    """The split that `key` belongs to, whatever the seed or size: about one key in `TEST_SHARE` is test."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return "test" if number % TEST_SHARE == 0 else "train"


def collect(draw: Callable[[random.Random], Sample], split: str, size: int, rng: random.Random) -> list[Sample]:
    """Draws until `size` samples of one split are found; those of a test split have distinct keys.

    Args:
        draw: draws one random sample of any split.
        split: "train" or "test".
        size: number of samples, at least 0.
        rng: source of all randomness.

    Raises:
        ValueError: the split is unknown, the size is negative, or fewer samples exist than were asked for.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if size < 0:
        raise ValueError(f"size of a sample set: got {size}, expected 0 or more")
    found: list[Sample] = []
    seen: set[str] = set()
    misses = 0
    while len(found) < size:
        sample = draw(rng)
        if split_of(sample.key) != split or (split == "test" and sample.key in seen):
            misses += 1
            if misses == PATIENCE:
                raise ValueError(f"{sample.skill}: {size} {split} samples asked for, only {len(found)} exist; ask for at most {len(found)}")
            continue
        misses = 0
        seen.add(sample.key)
        found.append(sample)
    return found
