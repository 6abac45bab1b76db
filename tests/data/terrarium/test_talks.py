"""Dialogues about one picture: true, untold by each other, apart from the test questions."""

from data.terrarium.draw import COLOURS
from data.terrarium.sample import split_of
from data.terrarium.scenes import Clock, Scene, Thing
from data.terrarium.skills import samples

NAMES = {"Scene": Scene, "Thing": Thing, "Clock": Clock}


def scene_of(sample) -> Scene:
    """The scene that a sample's key spells out."""
    return eval(sample.key.partition("/")[2], NAMES)  # the key is written by this repository's own dataclass


def truths(scene: Scene) -> set[str]:
    """Every sentence that is right about a scene, for the kinds of questions that talks ask."""
    said = set()
    for thing in scene.things:
        said |= {f"The {thing.kind} is {thing.colour}.", f"The {thing.colour} thing is a {thing.kind}."}
        said.add(f"The {thing.kind} is at the {thing.place}.")
    for a in scene.things:
        for b in scene.things:
            said |= {f"The {a.kind} is bigger."} if a.radius > b.radius else set()
            said |= {f"The {b.kind} is smaller."} if a.radius > b.radius else set()
            said |= {f"The {a.kind} is higher."} if a.centre[1] < b.centre[1] - 10 else set()
            said |= {f"The {a.kind} is further left."} if a.centre[0] < b.centre[0] - 10 else set()
    return said


def test_every_answer_is_true_of_the_picture():
    for sample in samples("talks", "train", 200, seed=0):
        scene = scene_of(sample)
        assert {answer for _, answer in sample.rounds} <= truths(scene), sample.rounds


def test_of_two_things_the_right_one_wins():
    seen = set()
    for sample in samples("talks", "train", 300, seed=1):
        things = {thing.kind: thing for thing in scene_of(sample).things}
        for question, answer in sample.rounds:
            if not question.startswith("Which is "):
                continue
            relation, _, rest = question.removeprefix("Which is ").partition(", the ")
            first, second = (things[kind] for kind in rest.rstrip("?").split(" or the "))
            left = {
                "bigger": first.radius > second.radius,
                "smaller": first.radius < second.radius,
                "higher": first.centre[1] < second.centre[1],
                "further left": first.centre[0] < second.centre[0],
            }[relation]
            assert answer == f"The {(first if left else second).kind} is {relation}."
            seen.add((relation, left))
    assert len(seen) == 8


def test_no_answer_tells_a_later_one():
    for sample in samples("talks", "train", 200, seed=2):
        coloured = {answer.split()[1] for _, answer in sample.rounds if answer.rstrip(".").split()[-1] in COLOURS}
        shaped = {answer.split()[-1].rstrip(".") for _, answer in sample.rounds if " thing is a " in answer}
        assert not coloured & shaped


def test_a_training_talk_holds_no_picture_that_a_test_question_is_about():
    for sample in samples("talks", "train", 200, seed=3):
        scene = sample.key.partition("/")[2]
        if any(answer.rstrip(".").split()[-1] in COLOURS for _, answer in sample.rounds):
            assert split_of(f"colour/{scene}") == "train"
        if any(" is at the " in answer for _, answer in sample.rounds):
            assert split_of(f"place/{scene}") == "train"
