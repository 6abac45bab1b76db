"""Dialogues of several rounds, made of the other text skills."""

import random

from data.terrarium.creatures import ABOUT, ATTRIBUTES, CREATURES, QUESTIONS, ask, facts, follow_up, same_of
from data.terrarium.language import instructions, opposite_chain, opposites, stories, story_questions
from data.terrarium.sample import Sample, split_of

SYSTEMS = (
    "You are a keeper of the Terrarium.",
    "You are a friendly guide.",
    "You know the creatures of the Terrarium.",
    "You give short answers.",
)
GREETINGS = (
    ("Hello!", "Hello! What would you like to know?"),
    ("Good morning!", "Good morning! What would you like to know?"),
    ("Hi, can you help me?", "Hi! I am happy to help you."),
    ("I have some questions.", "I am happy to help you."),
)
THANKS = (
    ("Thank you!", "You are welcome!"),
    ("Thanks for your help.", "You are welcome!"),
    ("Goodbye!", "Goodbye! Come back soon."),
    ("That is all for now.", "Goodbye! Come back soon."),
)
COURTESY_SHARE = 0.2  # of dialogues that open with a greeting; as many close with thanks
SYSTEM_SHARE = 0.5  # of dialogues that have a system turn


def dialogues(rng: random.Random) -> Sample:
    """A dialogue of two to four rounds; one of the training split is made of training questions only."""
    while True:
        greeting = rng.choice(GREETINGS) if rng.random() < COURTESY_SHARE else None
        thanks = rng.choice(THANKS) if rng.random() < COURTESY_SHARE else None
        parts = KINDS[rng.choice(tuple(KINDS))](rng, rng.choice((2, 3) if greeting is None or thanks is None else (2,)))
        rounds = (*((greeting,) if greeting else ()), *(part.rounds[0] for part in parts), *((thanks,) if thanks else ()))
        key = "dialogues/" + "|".join([greeting[0] if greeting else "", *(part.key for part in parts), thanks[0] if thanks else ""])
        if split_of(key) == "test" or all(split_of(part.key) == "train" for part in parts):
            system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else None
            return Sample(skill="dialogues", key=key, rounds=rounds, system=system)


def _one_creature(rng: random.Random, length: int) -> list[Sample]:
    creature = rng.choice(CREATURES)
    opening = rng.choice(tuple(QUESTIONS))
    later = rng.sample([attribute for attribute in ATTRIBUTES if attribute != opening], length - 1)
    return [ask(creature, opening, rng), *(follow_up(creature, attribute, rng) for attribute in later)]


def _one_attribute(rng: random.Random, length: int) -> list[Sample]:
    attribute = rng.choice((*ATTRIBUTES, ABOUT))
    opening, *others = rng.sample(CREATURES, length)
    return [ask(opening, attribute, rng), *(same_of(creature, attribute) for creature in others)]


def _one_story(rng: random.Random, length: int) -> list[Sample]:
    return story_questions(rng)[:length]


def _mixed(rng: random.Random, length: int) -> list[Sample]:
    return [rng.choice((facts, opposites, stories, instructions))(rng) for _ in range(length)]


KINDS = {"creature": _one_creature, "attribute": _one_attribute, "opposites": opposite_chain, "story": _one_story, "mixed": _mixed}
