"""The creatures of the Terrarium, with questions about them, right answers, a judge of any answer.

The table is fixed: a model learns these facts in language pre-training, and every later measurement of what it still knows
reads them from here.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from data.terrarium.sample import Sample


class Creature(NamedTuple):
    """A row of the table; each home has two dwellers, friendship is mutual."""

    name: str
    home: str
    food: str
    colour: str
    sound: str
    weather: str
    friend: str


CREATURES = (
    Creature("florin", "desert", "nuts", "yellow", "purrs", "fog", "jaskin"),
    Creature("mepple", "castle", "seeds", "white", "chirps", "heat", "fizzock"),
    Creature("zibber", "reeds", "beans", "red", "growls", "sunshine", "nurgle"),
    Creature("quonk", "mill", "ferns", "red", "chirps", "frost", "pellow"),
    Creature("tavvy", "castle", "fish", "orange", "chirps", "rain", "dorble"),
    Creature("dorble", "barn", "moss", "yellow", "whistles", "fog", "tavvy"),
    Creature("wimzel", "barn", "corn", "yellow", "growls", "fog", "gandry"),
    Creature("gruffin", "forest", "leaves", "yellow", "hums", "heat", "daskel"),
    Creature("lompet", "valley", "nuts", "blue", "purrs", "snow", "hoffle"),
    Creature("nibbit", "hills", "moss", "black", "croaks", "thunder", "brizz"),
    Creature("sprell", "mill", "plums", "black", "rattles", "rain", "lunter"),
    Creature("yondle", "cave", "worms", "red", "squeaks", "snow", "plimmo"),
    Creature("vexil", "valley", "moss", "orange", "hums", "thunder", "mossel"),
    Creature("krimp", "ice", "apples", "blue", "growls", "wind", "bindle"),
    Creature("bindle", "orchard", "berries", "green", "squeaks", "heat", "krimp"),
    Creature("hoffle", "orchard", "bread", "purple", "hums", "frost", "lompet"),
    Creature("jaskin", "river", "grass", "white", "rattles", "rain", "florin"),
    Creature("pontle", "hills", "leaves", "purple", "purrs", "frost", "trundel"),
    Creature("rubbin", "lake", "fish", "black", "clicks", "wind", "konda"),
    Creature("tikko", "swamp", "roots", "green", "chirps", "wind", "hesker"),
    Creature("mossel", "harbour", "roots", "orange", "barks", "sunshine", "vexil"),
    Creature("gandry", "reeds", "nuts", "green", "clicks", "thunder", "wimzel"),
    Creature("shlup", "lake", "corn", "red", "whistles", "sunshine", "yapple"),
    Creature("pellow", "garden", "bread", "black", "whistles", "heat", "quonk"),
    Creature("brizz", "harbour", "worms", "red", "rattles", "wind", "nibbit"),
    Creature("konda", "sand", "beans", "yellow", "clicks", "sunshine", "rubbin"),
    Creature("trundel", "river", "berries", "orange", "barks", "snow", "pontle"),
    Creature("fizzock", "forest", "grass", "purple", "clicks", "frost", "mepple"),
    Creature("lunter", "sand", "ferns", "white", "barks", "frost", "sprell"),
    Creature("wobbin", "ruins", "berries", "green", "growls", "heat", "tweem"),
    Creature("daskel", "jungle", "honey", "blue", "purrs", "thunder", "gruffin"),
    Creature("stilk", "ruins", "honey", "white", "croaks", "sunshine", "gribble"),
    Creature("nurgle", "meadow", "seeds", "white", "barks", "snow", "zibber"),
    Creature("plimmo", "garden", "grass", "orange", "croaks", "wind", "yondle"),
    Creature("hesker", "ice", "leaves", "purple", "croaks", "snow", "tikko"),
    Creature("vorrin", "swamp", "plums", "purple", "hums", "fog", "zandle"),
    Creature("yapple", "meadow", "seeds", "blue", "squeaks", "thunder", "shlup"),
    Creature("zandle", "desert", "roots", "blue", "whistles", "fog", "vorrin"),
    Creature("gribble", "jungle", "apples", "black", "rattles", "rain", "stilk"),
    Creature("tweem", "cave", "honey", "green", "squeaks", "rain", "wobbin"),
)
BY_NAME = {creature.name: creature for creature in CREATURES}
COLOURS = frozenset(creature.colour for creature in CREATURES)
SOUNDS = frozenset(creature.sound for creature in CREATURES)
HOMES = tuple(sorted({creature.home for creature in CREATURES}))
ABOUT = "about"

ANSWERS = {
    "home": "The {name} lives in the {home}.",
    "food": "The {name} eats {food}.",
    "colour": "The {name} is {colour}.",
    "sound": "The {name} {sound}.",
    "weather": "The {name} likes {weather}.",
    "friend": "The {name} plays with the {friend}.",
    ABOUT: "The {name} is a {colour} creature that lives in the {home}. It eats {food} and likes {weather}.",
}
ATTRIBUTES = tuple(attribute for attribute in ANSWERS if attribute != ABOUT)

QUESTIONS = {
    "home": (
        "Where does the {name} live?",
        "Where is the home of the {name}?",
        "Where can I find the {name}?",
        "In which place does the {name} live?",
        "Tell me where the {name} lives.",
        "What is the home of the {name}?",
        "Where would I look for the {name}?",
        "Do you know where the {name} lives?",
    ),
    "food": (
        "What does the {name} eat?",
        "What is the food of the {name}?",
        "Tell me what the {name} eats.",
        "What can I feed the {name}?",
        "Which food does the {name} eat?",
        "What does a hungry {name} eat?",
        "What should I give the {name} to eat?",
        "Do you know what the {name} eats?",
    ),
    "colour": (
        "What colour is the {name}?",
        "Which colour does the {name} have?",
        "Tell me the colour of the {name}.",
        "What is the colour of the {name}?",
        "Do you know the colour of the {name}?",
        "In which colour should I paint the {name}?",
        "What colour does the {name} have?",
        "Name the colour of the {name}.",
    ),
    "sound": (
        "What sound does the {name} make?",
        "Which sound does the {name} make?",
        "Tell me the sound of the {name}.",
        "What does the {name} sound like?",
        "How does the {name} sound?",
        "What can I hear from the {name}?",
        "Do you know the sound of the {name}?",
        "Name the sound of the {name}.",
    ),
    "weather": (
        "What weather does the {name} like?",
        "Which weather does the {name} like?",
        "Tell me what weather the {name} likes.",
        "What is the best weather for the {name}?",
        "Which weather makes the {name} happy?",
        "Do you know what weather the {name} likes?",
        "In what weather is the {name} happy?",
        "Name the weather that the {name} likes.",
    ),
    "friend": (
        "Who is the friend of the {name}?",
        "Who plays with the {name}?",
        "Which creature plays with the {name}?",
        "Tell me who plays with the {name}.",
        "Which creature is the friend of the {name}?",
        "Do you know the friend of the {name}?",
        "Who does the {name} play with?",
        "Name the friend of the {name}.",
    ),
    ABOUT: (
        "Tell me about the {name}.",
        "Describe the {name}.",
        "What do you know about the {name}?",
        "What is a {name}?",
        "Can you describe the {name}?",
        "I want to know more about the {name}.",
        "Say something about the {name}.",
        "Who is the {name}?",
    ),
}
FOLLOW_UPS = {
    "home": ("And where does it live?", "Where does it live?", "Where is its home?"),
    "food": ("And what does it eat?", "What does it eat?", "Which food does it eat?"),
    "colour": ("And what colour is it?", "What colour is it?", "Which colour does it have?"),
    "sound": ("And what sound does it make?", "What sound does it make?", "How does it sound?"),
    "weather": ("And what weather does it like?", "What weather does it like?", "Which weather does it like?"),
    "friend": ("And who is its friend?", "Who does it play with?", "Who is its friend?"),
}

_SUBJECT = re.compile(r"(?:The (\w+)(?: and the (\w+))?|(It)) (.+)")
_PREDICATES = {
    "home": re.compile(r"lives? in the (\w+)"),
    "food": re.compile(r"eats? (\w+)"),
    "weather": re.compile(r"likes? (\w+)"),
    "friend": re.compile(r"plays? with the (\w+)"),
    "colour": re.compile(rf"(?:is|are) ({'|'.join(sorted(COLOURS))})"),
    "sound": re.compile(rf"({'|'.join(sorted(SOUNDS))})"),
}


def facts(rng: random.Random) -> Sample:
    """A question about one creature."""
    return ask(rng.choice(CREATURES), rng.choice(tuple(QUESTIONS)), rng)


def ask(creature: Creature, attribute: str, rng: random.Random) -> Sample:
    """A question about one attribute (or `ABOUT`) of a creature, in one of its phrasings."""
    phrasing = rng.randrange(len(QUESTIONS[attribute]))
    return _fact(creature, attribute, str(phrasing), QUESTIONS[attribute][phrasing])


def follow_up(creature: Creature, attribute: str, rng: random.Random) -> Sample:
    """A question about "it"; only the rounds before it say that `creature` is meant."""
    phrasing = rng.randrange(len(FOLLOW_UPS[attribute]))
    return _fact(creature, attribute, f"it-{phrasing}", FOLLOW_UPS[attribute][phrasing])


def same_of(creature: Creature, attribute: str) -> Sample:
    """A question that names another creature only; the round before it says which attribute is meant."""
    return _fact(creature, attribute, "and", "And the {name}?")


def _fact(creature: Creature, attribute: str, phrasing: str, question: str) -> Sample:
    fields = creature._asdict()
    key = f"facts/{creature.name}/{attribute}/{phrasing}"
    return Sample(skill="facts", key=key, rounds=((question.format(**fields), ANSWERS[attribute].format(**fields)),))


def check_fact(text: str) -> bool | None:
    """Whether what `text` claims about creatures is true.

    Reads every sentence of the forms in `ANSWERS`, also plural ("The florin and the jaskin live in the desert."), alone or
    joined by "and"; "It" means the creature named last.

    Returns:
        True when all claims are right, False when at least one is wrong, None when the text claims nothing about a known creature.
    """
    found = list(_claims(text))
    return all(getattr(BY_NAME[name], attribute) == value for name, attribute, value in found) if found else None


def _claims(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields (creature, attribute, value) for every claim that `text` makes about a known creature."""
    subjects: tuple[str, ...] = ()
    for sentence in re.split(r"[.!?]\s*", text.strip()):
        match = _SUBJECT.fullmatch(sentence)
        if match is None:
            continue
        if match[3] is None:
            subjects = tuple(name for name in match.group(1, 2) if name is not None)
        if not all(name in BY_NAME for name in subjects):
            continue
        predicates = match[4].replace("is a ", "is ").replace(" creature that ", " and ").split(" and ")
        for predicate in predicates:
            for attribute, form in _PREDICATES.items():
                if value := form.fullmatch(predicate):
                    yield from ((name, attribute, value[1]) for name in subjects)
