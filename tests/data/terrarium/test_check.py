"""The judge of self-written questions: what the world decides, what it does not."""

import re
from collections.abc import Iterator

import pytest

from data.terrarium.check import judge, judge_dialogue
from data.terrarium.creatures import ATTRIBUTES, CREATURES
from data.terrarium.sample import Sample
from data.terrarium.skills import samples
from data.terrarium.text import TEXT_SKILLS

ALWAYS_DECIDED = ("facts", "sums", "opposites", "stories", "instructions")


def drawn(skill: str) -> list[Sample]:
    return samples(skill, "train", 1500, seed=0) + samples(skill, "test", 80, seed=0)


@pytest.mark.parametrize("skill", TEXT_SKILLS)
def test_no_answer_of_the_terrarium_is_judged_wrong(skill: str) -> None:
    assert [sample.rounds for sample in drawn(skill) if False in judge_dialogue(sample.rounds)] == []


@pytest.mark.parametrize("skill", ALWAYS_DECIDED)
def test_every_question_of_the_terrarium_with_a_right_answer_is_decided(skill: str) -> None:
    assert [sample.rounds for sample in drawn(skill) if judge_dialogue(sample.rounds) != [True]] == []


def test_of_a_dialogue_all_but_courtesies_is_decided() -> None:
    courtesy = re.compile("(Hello|Good morning|Hi, can|I have some|Thank|Goodbye|That is all)")
    for sample in drawn("dialogues"):
        expected = [None if courtesy.match(question) else True for question, _ in sample.rounds]
        assert judge_dialogue(sample.rounds) == expected, sample.rounds


def swapped(group: list[Sample]) -> Iterator[tuple[str, str]]:
    """The question of each sample with the answer of the next; without those that ask about the same."""
    for sample, other in zip(group, group[1:], strict=False):
        subjects = [sorted(re.findall(r"\w+", one.key.split("/")[1])) for one in (sample, other)]
        (question, right), (_, answer) = sample.rounds[0], other.rounds[0]
        if subjects[0] != subjects[1] and answer != right and not (sample.skill == "facts" and subjects[0][0] in answer):
            yield question, answer


@pytest.mark.parametrize("skill", ALWAYS_DECIDED)
def test_the_answer_to_another_question_is_judged_wrong(skill: str) -> None:
    found = list(swapped(drawn(skill)))
    assert len(found) > 1000
    assert [pair for pair in found if judge(*pair) is not False] == []


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_another_value_of_the_same_attribute_is_judged_wrong(attribute: str) -> None:
    for sample in (sample for sample in drawn("facts") if f"/{attribute}/" in sample.key):
        question, answer = sample.rounds[0]
        creature = next(creature for creature in CREATURES if creature.name == sample.key.split("/")[1])
        right = getattr(creature, attribute)
        wrong = next(value for other in CREATURES if (value := getattr(other, attribute)) not in (right, creature.name))
        assert judge(question, re.sub(rf"\b{right}\b", wrong, answer)) is False


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("What does the florin eat?", "Nuts.".lower(), True),
        ("What does the florin eat?", "It eats nuts.", True),
        ("What does the florin eat?", "The florin lives in the desert. It eats nuts.", True),
        ("What does the florin eat?", "The florin lives in the desert.", False),
        ("What does the florin eat?", "The florin eats nuts and moss.", False),
        ("What does the florin eat?", "The florin does not eat nuts.", False),
        ("What does the florin eat?", "The florin eats nuts. It lives in the swamp.", False),
        ("What does the florin eat?", "It eats nuts. It lives in the swamp.", False),
        ("What does the florin eat?", "The lompet eats nuts.", False),
        ("What does the florin eat?", "I do not know.", False),
        ("Who plays with the florin?", "The jaskin plays with the florin.", True),
        ("Who plays with the florin?", "The jaskin lives in the river.", False),
        ("Where does the florin live?", "In the desert.", True),
        ("Where does the florin live?", "The florin and the zandle live in the desert.", True),
        ("Where does the florin live?", "The florin and the jaskin live in the desert.", False),
        ("Tell me about the florin.", "The florin is yellow and likes fog.", True),
        ("Tell me about the florin.", "The florin is yellow and likes rain.", False),
        ("Tell me about the florin.", "The zandle is blue.", False),
        ("Who lives in the desert?", "The zandle and the florin live in the desert.", True),
        ("Who lives in the desert?", "The florin lives in the desert.", False),
        ("Who lives in the desert?", "The florin, the zandle and the lompet.", False),
        ("What is 7 + 5?", "12", True),
        ("What is 7 + 5?", "5 + 7 = 12.", True),
        ("What is 7 + 5?", "7 + 6 = 12.", False),
        ("What is 7 + 5?", "7 + 5 = 13.", False),
        ("Add 70 and 50.", "70 + 50 = 120.", True),
        ("What is the opposite of hot?", "cold", True),
        ("What is the opposite of hot?", "The opposite of hot is not cold.", False),
        ("What is the opposite of hot?", "Cold is the opposite of hot.", True),
        ("What is the opposite of hot?", "The opposite of cold is hot.", False),
        ("What is the opposite of hot?", "The opposite of big is cold.", False),
        ("What is the opposite of hot?", "The opposite of hot is hot.", False),
        ("Say fox twice.", "I say fox fox.", True),
        ("Say fox twice.", "I say fox.", False),
        ("Please repeat fox twice.", "You said fox twice.", True),
        ("Swap the words fox and hen.", "That makes fox and hen.", False),
        ("Dana walked to the cave. There Dana found a red map. Where did Dana walk?", "Dana walked to the cave.", True),
        ("Dana walked to the cave. There Dana found a red map. Where did Dana walk?", "Dana walked to the mill.", False),
    ],
)
def test_an_answer_is_right_when_it_says_what_was_asked_and_nothing_wrong(question: str, answer: str, expected: bool) -> None:
    assert judge(question, answer) is expected


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hello!", "Hello! What would you like to know?"),
        ("Where does the blorp live?", "The blorp lives in the desert."),
        ("What does it eat?", "It eats nuts."),
        ("And the florin?", "Nuts."),
        ("What is the opposite of fox?", "The opposite of fox is hen."),
        ("Who lives in the kitchen?", "Nobody."),
        ("Dana walked to the cave. There Dana found a red map. Who found the hat?", "Dana found the hat."),
        ("Dana walked to the cave. There Hugo found a red map. Where did Dana walk?", "Dana walked to the cave."),
        ("What did Dana find?", "Dana found a red map."),
        ("What is a + b?", "12"),
    ],
)
def test_what_the_world_does_not_decide_is_not_judged(question: str, answer: str) -> None:
    assert judge(question, answer) is None


@pytest.mark.parametrize(("answer", "expected"), [("The florin eats nuts.", True), ("The florin eats moss.", False)])
def test_claims_that_answer_a_question_of_another_form_are_judged(answer: str, expected: bool) -> None:
    assert judge("Is there anything that the florin likes to chew?", answer) is expected


@pytest.mark.parametrize(("answer", "expected"), [("It eats nuts.", True), ("It eats grass.", False)])
def test_it_means_the_creature_that_was_asked_about_not_its_friend(answer: str, expected: bool) -> None:
    rounds = [("Who plays with the florin?", "The florin plays with the jaskin."), ("What does it eat?", answer)]
    assert judge_dialogue(rounds) == [True, expected]


def test_it_means_the_creature_named_last_where_none_was_asked_about() -> None:
    rounds = [("Tell me something nice.", "The jaskin eats grass. The florin eats nuts."), ("Where does it live?", "In the desert.")]
    assert judge_dialogue(rounds) == [True, True]


@pytest.mark.parametrize(("answer", "expected"), [("The jaskin eats grass.", True), ("The jaskin lives in the river.", False)])
def test_another_creature_is_asked_the_same_as_the_one_before(answer: str, expected: bool) -> None:
    assert judge_dialogue([("What does the florin eat?", "Nuts."), ("And the jaskin?", answer)])[1] is expected


def test_a_story_is_remembered_over_rounds_about_other_things() -> None:
    rounds = [
        ("Dana had a red map. Dana gave it to Hugo in the cave. Who has the map now?", "Hugo has the map now."),
        ("What is 7 + 5?", "12"),
        ("Where did Dana meet Hugo?", "Dana met Hugo in the mill."),
    ]
    assert judge_dialogue(rounds) == [True, True, False]
