"""Text skills that need no creature table: sums, opposites, stories, instructions."""

import random
from typing import NamedTuple

from data.terrarium.creatures import CREATURES, HOMES
from data.terrarium.sample import Sample
from data.terrarium.words import HOLDERS, LOOKS, NAMES, OPPOSITES, PLACES, THINGS, WORDS

LARGEST = 20  # of the numbers that are added

SUMS = (
    "What is {a} + {b}?",
    "{a} + {b} = ?",
    "How much is {a} + {b}?",
    "Tell me {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "Add {a} and {b}.",
)

OPPOSITE_OF = {**dict(OPPOSITES), **{right: left for left, right in OPPOSITES}}
OPPOSITE_QUESTIONS = (
    "What is the opposite of {word}?",
    "Tell me the opposite of {word}.",
    "Which word is the opposite of {word}?",
    "Give me the opposite of {word}.",
    "Name the opposite of {word}.",
    "Do you know the opposite of {word}?",
    "Say the opposite of {word}.",
    "The opposite of {word} is what?",
)


class Story(NamedTuple):
    """A story template with its questions; each question has one right answer."""

    text: str
    rounds: tuple[tuple[str, str], ...]


STORIES = {
    "find": Story(
        "{A} walked to the {place}. There {A} found a {look} {thing}.",
        (
            ("What did {A} find?", "{A} found a {look} {thing}."),
            ("Where did {A} walk?", "{A} walked to the {place}."),
            ("Who found the {thing}?", "{A} found the {thing}."),
        ),
    ),
    "give": Story(
        "{A} had a {look} {thing}. {A} gave it to {B} in the {place}.",
        (
            ("Who has the {thing} now?", "{B} has the {thing} now."),
            ("What did {A} give to {B}?", "{A} gave a {look} {thing} to {B}."),
            ("Where did {A} meet {B}?", "{A} met {B} in the {place}."),
        ),
    ),
    "take": Story(
        "{A} took a {look} {thing}. {B} took a {other_look} {other_thing}.",
        (
            ("What did {A} take?", "{A} took a {look} {thing}."),
            ("What did {B} take?", "{B} took a {other_look} {other_thing}."),
            ("Who took the {other_thing}?", "{B} took the {other_thing}."),
        ),
    ),
    "lose": Story(
        "{A} lost a {thing} in the {place}. {B} found it in the {other_place}.",
        (
            ("Where did {A} lose the {thing}?", "{A} lost the {thing} in the {place}."),
            ("Who found the {thing}?", "{B} found the {thing}."),
            ("Where did {B} find the {thing}?", "{B} found the {thing} in the {other_place}."),
        ),
    ),
    "carry": Story(
        "{A} put a {look} {thing} into a {holder}. Then {B} carried the {holder} to the {place}.",
        (
            ("Where is the {thing} now?", "The {thing} is in the {place} now."),
            ("What did {B} carry?", "{B} carried the {holder}."),
            ("What did {A} put into the {holder}?", "{A} put a {look} {thing} into the {holder}."),
        ),
    ),
}

INSTRUCTIONS = {
    "say": (("Say {a}.", "Please say {a}.", "Repeat {a}."), "I say {a}."),
    "twice": (("Say {a} twice.", "Please say {a} twice.", "Repeat {a} twice."), "I say {a} {a}."),
    "pair": (("Repeat the words {a} {b}.", "Say the words {a} {b}.", "Please repeat {a} {b}."), "You said {a} {b}."),
    "repeat": (("Repeat the words {a} {b} {c}.", "Say the words {a} {b} {c}.", "Please repeat {a} {b} {c}."), "You said {a} {b} {c}."),
    "row": (
        ("Repeat the words {a} {b} {c} {d} {e}.", "Say the words {a} {b} {c} {d} {e}.", "Please repeat {a} {b} {c} {d} {e}."),
        "You said {a} {b} {c} {d} {e}.",
    ),
    "leading": (("What is the leading word of {a} {b} {c}?", "Tell me the leading word of {a} {b} {c}."), "The leading word is {a}."),
    "middle": (("What is the middle word of {a} {b} {c}?", "Tell me the middle word of {a} {b} {c}."), "The middle word is {b}."),
    "last": (("What is the last word of {a} {b} {c}?", "Tell me the last word of {a} {b} {c}."), "The last word is {c}."),
    "swap": (("Swap the words {a} and {b}.", "Please swap {a} and {b}."), "That makes {b} and {a}."),
    "behind": (("Put {c} behind {a} {b}.", "Please put {c} behind {a} {b}."), "That makes {a} {b} {c}."),
    "dwellers": (
        (
            "Name the creatures that live in the {home}.",
            "Which creatures live in the {home}?",
            "Tell me which creatures live in the {home}.",
            "Who lives in the {home}?",
            "Do you know who lives in the {home}?",
            "Name all creatures in the {home}.",
        ),
        "The {dwellers[0]} and the {dwellers[1]} live in the {home}.",
    ),
}
DWELLERS = {home: tuple(creature.name for creature in CREATURES if creature.home == home) for home in HOMES}


def sums(rng: random.Random) -> Sample:
    """A sum of two whole numbers from 0 to `LARGEST`."""
    a, b, phrasing = rng.randint(0, LARGEST), rng.randint(0, LARGEST), rng.randrange(len(SUMS))
    return Sample(skill="sums", key=f"sums/{a}+{b}/{phrasing}", rounds=((SUMS[phrasing].format(a=a, b=b), f"{a} + {b} = {a + b}."),))


def opposites(rng: random.Random) -> Sample:
    """The opposite of a word."""
    return _ask_opposite(rng.choice(tuple(OPPOSITE_OF)), rng)


def opposite_chain(rng: random.Random, length: int) -> list[Sample]:
    """Questions for the opposites of `length` words; those after the first begin with "And"."""
    opening, *others = rng.sample(tuple(OPPOSITE_OF), length)
    return [_ask_opposite(opening, rng), *(_opposite(word, "and", "And the opposite of {word}?") for word in others)]


def _ask_opposite(word: str, rng: random.Random) -> Sample:
    phrasing = rng.randrange(len(OPPOSITE_QUESTIONS))
    return _opposite(word, str(phrasing), OPPOSITE_QUESTIONS[phrasing])


def _opposite(word: str, phrasing: str, question: str) -> Sample:
    rounds = ((question.format(word=word), f"The opposite of {word} is {OPPOSITE_OF[word]}."),)
    return Sample(skill="opposites", key=f"opposites/{word}/{phrasing}", rounds=rounds)


def stories(rng: random.Random) -> Sample:
    """A story of two sentences, then a question about it."""
    return story_questions(rng)[0]


def story_questions(rng: random.Random) -> list[Sample]:
    """All questions about one story in random order; the first also tells the story."""
    name = rng.choice(tuple(STORIES))
    fields = _story_fields(rng)
    story = STORIES[name]
    text = story.text.format(**fields)
    order = rng.sample(range(len(story.rounds)), len(story.rounds))
    asked = []
    for place, number in enumerate(order):
        question, answer = (part.format(**fields) for part in story.rounds[number])
        rounds = ((question if place else f"{text} {question}", answer),)
        asked.append(Sample(skill="stories", key=f"stories/{text}/{number}", rounds=rounds))
    return asked


def _story_fields(rng: random.Random) -> dict[str, str]:
    names, things, looks, places = (rng.sample(words, 2) for words in (NAMES, THINGS, LOOKS, PLACES))
    pairs = {"A": names[0], "B": names[1], "thing": things[0], "other_thing": things[1], "look": looks[0], "other_look": looks[1]}
    return pairs | {"place": places[0], "other_place": places[1], "holder": rng.choice(HOLDERS)}


def instructions(rng: random.Random) -> Sample:
    """A simple order: repeat, pick, swap or append words, or list the dwellers of a place."""
    kind = rng.choice(tuple(INSTRUCTIONS))
    orders, answer = INSTRUCTIONS[kind]
    home = rng.choice(HOMES)
    fields = {**dict(zip("abcde", rng.sample(WORDS, 5), strict=True)), "home": home, "dwellers": DWELLERS[home]}
    order = rng.choice(orders).format(**fields)
    return Sample(skill="instructions", key=f"instructions/{order}", rounds=((order, answer.format(**fields)),))
