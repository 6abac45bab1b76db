"""Crowded scenes with full captions, on which the vision tower learns to see."""

import random
import string
from collections import Counter

from data.terrarium.draw import COLOURS, SHAPES
from data.terrarium.sample import Sample
from data.terrarium.scenes import PLACES, Scene, SceneBuilder, Thing, some_things, some_tiles

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MINUTE_WORDS = (
    "sharp",
    "five",
    "ten",
    "quarter",
    "twenty",
    "twenty-five",
    "half",
    "thirty-five",
    "forty",
    "forty-five",
    "fifty",
    "fifty-five",
)
QUESTION, CENSUS_QUESTION, TILES_QUESTION = "Describe all.", "Count all.", "Name all."
EXTRAS = ("clock", "word", "pattern")


def crowd(rng: random.Random) -> Sample:
    """A picture with its full caption; every second one is crowded, the others hold things alone or one extra alone."""
    crowded = rng.random() < 0.5
    if crowded:
        extras = rng.sample(EXTRAS, rng.choice((2, 3, 3))) if rng.random() < 0.7 else []
    else:
        extras = [extra for extra in (rng.choice((*EXTRAS, "things")),) if extra in EXTRAS]
    builder = SceneBuilder(rng=rng)
    if "clock" in extras:
        builder.clock()
    if "word" in extras:
        builder.word("".join(rng.choices(string.ascii_lowercase, k=3)))
    if "pattern" in extras:
        builder.pattern(tuple("".join(rng.choices("01", k=4)) for _ in range(4)))
    count = rng.randrange(1, 10) if not extras else rng.randrange(4) if crowded else 0
    kinds = (rng.choice(SHAPES),) if rng.random() < 0.5 else SHAPES
    some_things(builder, count, (4.0, 6.0) if extras or count > 4 else (4.5, 9.0), kinds)
    scene = builder.build()
    return Sample(skill="crowd", key=f"crowd/{scene}", rounds=((QUESTION, caption(scene, rng)),), picture=scene.draw)


def census(rng: random.Random) -> Sample:
    """One to nine things; the caption counts them, in all, by colour and by place."""
    builder = SceneBuilder(rng=rng)
    count = rng.randrange(1, 10)
    kinds = (rng.choice(SHAPES),) if rng.random() < 0.8 else SHAPES
    some_things(builder, count, (4.0, 6.0) if count > 4 else (4.0, 8.0), kinds)
    scene = builder.build()
    return Sample(skill="census", key=f"census/{scene}", rounds=((CENSUS_QUESTION, counts(scene)),), picture=scene.draw)


def tiles(rng: random.Random) -> Sample:
    """One to nine things on the lattice; the caption counts them by shape, then names some at their places."""
    builder = SceneBuilder(rng=rng)
    kinds = (rng.choice(SHAPES),) if rng.random() < 0.5 else SHAPES
    some_tiles(builder, rng.randrange(1, 10), (1, 2), kinds)
    scene = builder.build()
    found = Counter(thing.kind for thing in scene.things)
    parts = [f"{NUMBERS[len(scene.things)]} things"] + [f"{kind} {NUMBERS[found[kind]]}" for kind in SHAPES if found[kind]]
    answer = ", ".join(parts + alone(scene, rng, 5))
    return Sample(skill="tiles", key=f"tiles/{scene}", rounds=((TILES_QUESTION, answer),), picture=scene.draw)


def counts(scene: Scene) -> str:
    """How many things there are: in all, of each colour, at each place, in a fixed order; what is absent is left out."""
    parts = [f"{NUMBERS[len(scene.things)]} things"]
    places = [place for row in PLACES for place in row]
    for names, kind in ((COLOURS, "colour"), (places, "place")):
        found = Counter(getattr(thing, kind) for thing in scene.things)
        parts += [f"{name} {NUMBERS[found[name]]}" for name in names if found[name]]
    return ", ".join(parts)


def caption(scene: Scene, rng: random.Random) -> str:
    """Everything worth seeing in a scene, in a fixed order; up to three things, in random order, that are alone at their place."""
    parts = [f"{scene.texture} ground", f"{NUMBERS[len(scene.things)]} things"]
    if scene.clock:
        parts.append(f"clock {NUMBERS[scene.clock.hour]} {MINUTE_WORDS[scene.clock.minute // 5]}")
    if scene.word:
        parts.append("sign " + " ".join(scene.word[0]))
    if scene.pattern:
        parts.append("pattern " + " ".join(row.replace("0", "o").replace("1", "x") for row in scene.pattern[0]))
    return ", ".join(parts + alone(scene, rng, 3))


def alone(scene: Scene, rng: random.Random, most: int) -> list[str]:
    """Up to `most` things, in random order, that no other thing shares its place with."""
    crowding = Counter(thing.place for thing in scene.things)
    found: list[Thing] = [thing for thing in scene.things if crowding[thing.place] == 1]
    return [f"{thing.place} {thing.name}" for thing in rng.sample(found, min(most, len(found)))]
