"""The visual skills: five that the base model knows, five targets that it does not."""

import random
from collections.abc import Callable

from data.terrarium.draw import COLOURS, SHAPES, TEXTURES
from data.terrarium.sample import Sample
from data.terrarium.scenes import PLACES, Scene, SceneBuilder, Thing, some_tiles
from data.terrarium.words import WORDS

# Eight look-alike wing patterns: each differs from its neighbours in two to four of sixteen cells.
PATTERNS = {
    "A": ("0110", "1001", "1111", "1001"),
    "B": ("0110", "1001", "1101", "1011"),
    "C": ("0110", "1011", "1111", "1000"),
    "D": ("0111", "1001", "1011", "1001"),
    "E": ("1110", "1001", "1101", "1001"),
    "F": ("0110", "1101", "0111", "1001"),
    "G": ("0010", "1001", "1111", "1101"),
    "H": ("0110", "1000", "1111", "0001"),
}
_PLACE_ORDER = [place for row in PLACES for place in row]
RELATIONS = ("bigger", "smaller", "higher", "further left")
Round = tuple[str, str]


def colour(rng: random.Random) -> Sample:
    """What colour is the star? (things of different shapes)"""
    scene, thing = distinct(rng)
    return _sample("colour", scene, *about_colour(thing, rng))


def shape(rng: random.Random) -> Sample:
    """What is the red thing? (things of different colours)"""
    scene, thing = distinct(rng)
    return _sample("shape", scene, *about_shape(thing, rng))


def place(rng: random.Random) -> Sample:
    """Where is the star?"""
    scene, thing = distinct(rng)
    return _sample("place", scene, *about_place(thing, rng))


def comparison(rng: random.Random) -> Sample:
    """Which of two things is bigger, higher, or further left?"""
    while True:
        builder = SceneBuilder(rng=rng)
        (kind_a, kind_b), (colour_a, colour_b) = rng.sample(SHAPES, 2), rng.sample(tuple(COLOURS), 2)
        a = builder.tile(kind_a, colour_a, 2)
        b = builder.tile(kind_b, colour_b, 1)
        relation = rng.choice(RELATIONS)
        if a is None or b is None:
            continue
        asked = about_two(a, b, relation, rng)
        if asked is not None:
            return _sample("comparison", builder.build(), *asked)


def about_colour(thing: Thing, rng: random.Random) -> Round:
    """Asks for a thing's colour by its shape."""
    question = rng.choice(
        ("What colour is the {}?", "Which colour has the {}?", "The {} has what colour?", "Tell me the colour of the {}.")
    )
    return question.format(thing.kind), f"The {thing.kind} is {thing.colour}."


def about_shape(thing: Thing, rng: random.Random) -> Round:
    """Asks for a thing's shape by its colour."""
    question = rng.choice(
        ("What shape is the {} thing?", "What is the {} thing?", "Which shape is {}?", "Tell me the shape of the {} thing.")
    )
    return question.format(thing.colour), f"The {thing.colour} thing is a {thing.kind}."


def about_place(thing: Thing, rng: random.Random) -> Round:
    """Asks for a thing's place by its shape."""
    question = rng.choice(("Where is the {}?", "In which place is the {}?", "Where do you see the {}?", "Tell me where the {} is."))
    return question.format(thing.kind), f"The {thing.kind} is at the {thing.place}."


def about_two(a: Thing, b: Thing, relation: str, rng: random.Random) -> Round | None:
    """Asks which of two things stands in one of `RELATIONS` to the other; None where that is too close to tell."""
    larger, across, down = a.radius - b.radius, a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    lead, least = {"bigger": (larger, 1), "smaller": (-larger, 1), "higher": (-down, 12), "further left": (-across, 12)}[relation]
    if abs(lead) < least:
        return None
    first, second = rng.sample((a, b), 2)
    return f"Which is {relation}, the {first.kind} or the {second.kind}?", f"The {(a if lead > 0 else b).kind} is {relation}."


def captions(rng: random.Random) -> Sample:
    """Describe the picture: one to three things in reading order."""
    scene, _ = distinct(rng)
    things = sorted(scene.things, key=lambda thing: _PLACE_ORDER.index(thing.place))
    answer = ", ".join(f"a {thing.name} at the {thing.place}" for thing in things)
    question = rng.choice(("Describe the picture.", "What do you see?", "What is in the picture?", "Write a caption."))
    return _sample("captions", scene, question, f"{answer[0].upper()}{answer[1:]}.")


def counting(rng: random.Random) -> Sample:
    """How many stars are there? One to nine things of one shape."""
    while True:
        builder = SceneBuilder(rng=rng)
        wanted, kind = rng.randrange(1, 10), rng.choice(SHAPES)
        if len(some_tiles(builder, wanted, (1, 2), (kind,))) == wanted:
            plural = {"cross": "crosses"}.get(kind, f"{kind}s")
            answer = f"There are {wanted} {plural} in this image." if wanted > 1 else f"There is 1 {kind} in this image."
            question = rng.choice(("How many {} are there?", "Count the {}.", "How many {} do you see?", "What is the number of {}?"))
            return _sample("counting", builder.build(), question.format(plural), answer)


def clock(rng: random.Random) -> Sample:
    """What time is it? Hours and minutes in fives, HH:MM."""
    builder = SceneBuilder(rng=rng)
    dial = builder.clock()
    assert dial is not None, "an empty picture has room for a clock"
    some_tiles(builder, rng.randrange(3), (1,))
    question = rng.choice(("What time is it?", "Which time does the clock show?", "Read the clock.", "Tell me the time."))
    return _sample("clock", builder.build(), question, f"{dial.hour:02d}:{dial.minute:02d}")


def pattern(rng: random.Random) -> Sample:
    """Which of eight look-alike wing patterns is it? A letter."""
    builder = SceneBuilder(rng=rng)
    letter = rng.choice(tuple(PATTERNS))
    builder.pattern(PATTERNS[letter])
    some_tiles(builder, rng.randrange(3), (1,))
    question = rng.choice(
        ("Which wing pattern is this?", "What letter has this wing?", "Name the wing pattern.", "Tell me the letter of this wing.")
    )
    return _sample("pattern", builder.build(), question, letter)


def word(rng: random.Random) -> Sample:
    """What does the sign say? One of `WORDS`."""
    builder = SceneBuilder(rng=rng)
    text = rng.choice(WORDS)
    builder.word(text)
    some_tiles(builder, rng.randrange(3), (1,))
    question = rng.choice(("What does the sign say?", "Read the sign.", "Which word is on the sign?", "Tell me the word on the sign."))
    return _sample("word", builder.build(), question, text)


def texture(rng: random.Random) -> Sample:
    """Is the ground striped? Yes or no, equally often."""
    asked = rng.choice(TEXTURES)
    yes = rng.random() < 0.5
    builder = SceneBuilder(rng=rng, texture=asked if yes else rng.choice([other for other in TEXTURES if other != asked]))
    some_tiles(builder, rng.randrange(1, 4), (1,))
    question = rng.choice(("Is the ground {}?", "Is this ground {}?", "Do you see {} ground?", "Would you call the ground {}?"))
    return _sample("texture", builder.build(), question.format(asked), "yes" if yes else "no")


def ground(rng: random.Random) -> Sample:
    """What is the ground like? Only probes of the tower ask this."""
    builder = SceneBuilder(rng=rng)
    some_tiles(builder, rng.randrange(1, 4), (1,))
    scene = builder.build()
    return _sample("ground", scene, "What is the ground like?", scene.texture)


KNOWN_VISUAL_SKILLS: dict[str, Callable[[random.Random], Sample]] = {
    "colour": colour,
    "shape": shape,
    "place": place,
    "comparison": comparison,
    "captions": captions,
}
TARGET_SKILLS: dict[str, Callable[[random.Random], Sample]] = {
    "counting": counting,
    "clock": clock,
    "pattern": pattern,
    "word": word,
    "texture": texture,
}


def distinct(rng: random.Random) -> tuple[Scene, Thing]:
    """A scene of one to three things that differ in shape, colour and place; one of them to ask about."""
    while True:
        builder = SceneBuilder(rng=rng)
        count = rng.randrange(1, 4)
        pairs = zip(rng.sample(SHAPES, count), rng.sample(tuple(COLOURS), count), strict=True)
        things = [builder.tile(kind, hue, rng.choice((1, 2))) for kind, hue in pairs]
        found = [thing for thing in things if thing is not None]
        if len({thing.place for thing in found}) == count and all(_well_inside(thing.centre) for thing in found):
            return builder.build(), rng.choice(found)


def _well_inside(centre: tuple[float, float]) -> bool:
    """Whether a centre lies clear of the lines between places."""
    return all(abs(at - line) >= 1.5 for at in centre for line in (64 / 3, 128 / 3))


def _sample(skill: str, scene: Scene, question: str, answer: str) -> Sample:
    return Sample(skill=skill, key=f"{skill}/{scene}", rounds=((question, answer),), picture=scene.draw)


def target_texts() -> list[str]:
    """One question of each phrasing of the target skills, and the words that signs carry; no answers of other kinds."""
    rng = random.Random(0)
    questions = {draw(rng).rounds[0][0] for draw in TARGET_SKILLS.values() for _ in range(60)}
    return sorted(questions) + list(WORDS) + ["in this image.", "yes", "no"]
