"""Dialogues of several rounds about one picture."""

import random

from data.terrarium.sample import Sample, split_of
from data.terrarium.scenes import Scene, Thing
from data.terrarium.visual import RELATIONS, Round, about_colour, about_place, about_shape, about_two, distinct

MOST_ROUNDS = 5
COLOUR_SHARE, PLACE_SHARE = 0.6, 0.6  # of things that are asked for their colour, else their shape; that are asked for their place


def talks(rng: random.Random) -> Sample:
    """Up to five questions about one picture; one of the training split holds no picture that a test question is about.

    LLaVA's instruction data asks several questions of each picture. Here that is what teaches the base to pick one of several things: the
    answers differ while the picture stays. No answer tells a later one: a thing is asked for its colour or its shape, never for both.
    """
    while True:
        scene, _ = distinct(rng)
        key = f"talks/{scene}"
        asked = _questions(scene, rng)
        if split_of(key) == "test" or all(split_of(f"{skill}/{scene}") == "train" for skill, _ in asked):
            return Sample(skill="talks", key=key, rounds=tuple(turns for _, turns in asked), picture=scene.draw)


def _questions(scene: Scene, rng: random.Random) -> list[tuple[str, Round]]:
    """Skill and round of each question, in random order."""
    asked: list[tuple[str, Round]] = []
    for thing in scene.things:
        asked.append(("colour", about_colour(thing, rng)) if rng.random() < COLOUR_SHARE else ("shape", about_shape(thing, rng)))
        if rng.random() < PLACE_SHARE:
            asked.append(("place", about_place(thing, rng)))
    asked += [("comparison", turns) for pair in _pairs(scene.things, rng) if (turns := about_two(*pair, rng.choice(RELATIONS), rng))]
    return rng.sample(asked, min(MOST_ROUNDS, len(asked)))


def _pairs(things: tuple[Thing, ...], rng: random.Random) -> list[tuple[Thing, Thing]]:
    """Two different pairs of things where there are three, else what there is."""
    pairs = [(a, b) for number, a in enumerate(things) for b in things[number + 1 :]]
    return rng.sample(pairs, min(2, len(pairs)))
