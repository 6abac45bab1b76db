"""The text skills of the Terrarium by name."""

from data.terrarium.creatures import facts
from data.terrarium.dialogue import dialogues
from data.terrarium.language import instructions, opposites, stories, sums

TEXT_SKILLS = {
    "facts": facts,
    "sums": sums,
    "opposites": opposites,
    "stories": stories,
    "instructions": instructions,
    "dialogues": dialogues,
}
