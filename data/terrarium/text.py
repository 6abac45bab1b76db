"""The text skills of the Terrarium by name."""

import random
from collections.abc import Callable

from data.terrarium.creatures import facts
from data.terrarium.dialogue import dialogues
from data.terrarium.language import instructions, opposites, stories, sums
from data.terrarium.sample import Sample

TEXT_SKILLS: dict[str, Callable[[random.Random], Sample]] = {
    "facts": facts,
    "sums": sums,
    "opposites": opposites,
    "stories": stories,
    "instructions": instructions,
    "dialogues": dialogues,
}
