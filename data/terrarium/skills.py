"""Every skill of the Terrarium by name, with the suite it is tested in."""

import difflib
import random
from collections.abc import Callable

from data.terrarium.crowds import census, crowd, tiles
from data.terrarium.sample import Sample, collect
from data.terrarium.talks import talks
from data.terrarium.text import TEXT_SKILLS
from data.terrarium.visual import KNOWN_VISUAL_SKILLS, TARGET_SKILLS, ground

Draw = Callable[[random.Random], Sample]
SUITES: dict[str, dict[str, Draw]] = {
    "held_out_text": TEXT_SKILLS,
    "held_out_visual": KNOWN_VISUAL_SKILLS,
    "target": TARGET_SKILLS,
}
TOWER_SKILLS: dict[str, Draw] = {"crowd": crowd, "census": census, "tiles": tiles, "ground": ground}
TRAINING_SKILLS: dict[str, Draw] = {"talks": talks}
SKILLS: dict[str, Draw] = {**TOWER_SKILLS, **TRAINING_SKILLS, **TEXT_SKILLS, **KNOWN_VISUAL_SKILLS, **TARGET_SKILLS}


def samples(skill: str, split: str, size: int, seed: int) -> list[Sample]:
    """Draws `size` samples of a skill; the same arguments give the same samples, and a larger size begins with a smaller one's.

    Args:
        skill: a key of `SKILLS`.
        split: "train" (may hold a sample more than once) or "test" (distinct keys).
        size: number of samples.
        seed: chooses the draw, never the split.

    Raises:
        ValueError: the skill or split is unknown, or fewer test samples exist than `size`.
    """
    if skill not in SKILLS:
        nearest = difflib.get_close_matches(skill, SKILLS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown skill: got {skill!r}, expected one of {', '.join(SKILLS)}{hint}")
    return collect(SKILLS[skill], split, size, random.Random(f"{skill}/{split}/{seed}"))


def mixture(skills: dict[str, int], seed: int) -> list[Sample]:
    """Train samples of several skills, as many of each as given, in one random order."""
    drawn = [sample for skill, size in skills.items() for sample in samples(skill, "train", size, seed)]
    random.Random(f"mixture/{seed}").shuffle(drawn)
    return drawn
