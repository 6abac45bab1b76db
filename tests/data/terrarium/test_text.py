"""The text half of the Terrarium: samples, splits, facts, dialogues."""

import random
import re

import pytest

from data.terrarium import creatures
from data.terrarium.creatures import ANSWERS, ATTRIBUTES, CREATURES, QUESTIONS, check_fact
from data.terrarium.draw import COLOURS, GLYPHS
from data.terrarium.language import DWELLERS, SUMS
from data.terrarium.sample import Sample, collect, split_of
from data.terrarium.skills import samples
from data.terrarium.text import TEXT_SKILLS
from data.terrarium.words import OPPOSITES, WORDS

NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
    thirty forty fifty sixty seventy eighty ninety hundred thousand million billion first second third fourth fifth yes no
"""


def texts(sample: Sample) -> list[str]:
    return [text for turns in sample.rounds for text in turns] + ([sample.system] if sample.system else [])


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Sample]]:
    return {skill: samples(skill, "train", 2000, seed=0) for skill in TEXT_SKILLS}


@pytest.mark.parametrize("skill", TEXT_SKILLS)
def test_train_and_test_are_disjoint_for_any_size_and_seed(skill):
    train = [sample for seed in (0, 1) for sample in samples(skill, "train", 1500, seed)]
    test = [sample for seed in (2, 3) for sample in samples(skill, "test", 80, seed)]
    assert {sample.key for sample in train}.isdisjoint(sample.key for sample in test)
    # keys may hide an overlap: the words themselves must differ, too
    assert {sample.rounds for sample in train}.isdisjoint(sample.rounds for sample in test)


def test_a_key_is_test_about_once_in_eight_and_never_changes_its_split():
    keys = [f"key/{number}" for number in range(8000)]
    assert 900 < sum(split_of(key) == "test" for key in keys) < 1100
    assert [number for number in range(8) if split_of(f"opposites/hot/{number}") == "test"] == [1]


@pytest.mark.parametrize("skill", TEXT_SKILLS)
def test_samples_depend_on_the_seed_alone(skill):
    random.seed(1)
    once = samples(skill, "train", 300, seed=5)
    random.seed(2)
    assert once == samples(skill, "train", 300, seed=5)
    assert once[:100] == samples(skill, "train", 100, seed=5)
    assert once != samples(skill, "train", 300, seed=6)


@pytest.mark.parametrize("skill", TEXT_SKILLS)
def test_a_test_set_holds_every_key_once(skill):
    keys = [sample.key for sample in samples(skill, "test", 80, seed=0)]
    assert len(set(keys)) == 80


def test_asking_for_more_test_samples_than_exist_names_how_many_there_are():
    existing = sum(split_of(f"facts/{creature.name}/{attribute}/{phrasing}") == "test" for creature, attribute, phrasing in all_questions())
    with pytest.raises(ValueError, match=rf"facts: 5000 test .* only {existing} exist"):
        samples("facts", "test", 5000, seed=0)
    assert len(samples("facts", "test", existing, seed=0)) == existing


def test_a_wrong_request_is_refused_with_the_right_names():
    with pytest.raises(ValueError, match="did you mean 'stories'"):
        samples("storys", "train", 1, seed=0)
    with pytest.raises(ValueError, match="expected one of train, test"):
        samples("facts", "dev", 1, seed=0)
    with pytest.raises(ValueError, match="got -1"):
        collect(TEXT_SKILLS["facts"], "train", -1, random.Random(0))


def all_questions():
    return [
        (creature, attribute, phrasing)
        for creature in CREATURES
        for attribute in QUESTIONS
        for phrasing in range(len(QUESTIONS[attribute]))
    ]


def test_there_are_200_facts_about_distinct_creatures():
    assert len({creature.name for creature in CREATURES}) == len(CREATURES)
    assert len(CREATURES) * len(ATTRIBUTES) >= 200
    assert all(len(set(phrasings)) >= 6 for phrasings in QUESTIONS.values())


def test_every_fact_has_three_phrasings_in_train():
    for creature in CREATURES:
        for attribute, phrasings in QUESTIONS.items():
            splits = [split_of(f"facts/{creature.name}/{attribute}/{number}") for number in range(len(phrasings))]
            assert splits.count("train") >= 3, f"{creature.name} {attribute}"


def test_every_sum_and_every_opposite_has_a_phrasing_in_train():
    for sample in samples("sums", "test", 300, seed=0):
        stem = sample.key.rsplit("/", 1)[0]
        assert any(split_of(f"{stem}/{number}") == "train" for number in range(len(SUMS))), stem
    for sample in samples("opposites", "test", 80, seed=0):
        stem = sample.key.rsplit("/", 1)[0]
        assert sum(split_of(f"{stem}/{number}") == "train" for number in range(8)) >= 3, stem


def test_friendship_is_mutual_and_every_home_has_two_dwellers():
    assert all(creatures.BY_NAME[creature.friend].friend == creature.name != creature.friend for creature in CREATURES)
    assert all(len(names) == 2 for names in DWELLERS.values())
    assert set(COLOURS) == creatures.COLOURS


@pytest.mark.parametrize("attribute", ANSWERS)
def test_the_checker_accepts_each_right_answer_and_rejects_a_wrong_one(attribute):
    for creature in CREATURES:
        assert check_fact(ANSWERS[attribute].format(**creature._asdict())) is True
    right, wrong = CREATURES[0], next(other for other in CREATURES if not set(other[1:]) & set(CREATURES[0][1:]))
    assert check_fact(ANSWERS[attribute].format(**(wrong._asdict() | {"name": right.name}))) is False


def test_the_checker_reads_pronouns_plurals_and_unknown_values():
    assert check_fact("The florin lives in the desert. It eats nuts.") is True
    assert check_fact("The florin lives in the desert. It eats moss.") is False
    assert check_fact("The florin and the jaskin live in the desert.") is (creatures.BY_NAME["jaskin"].home == "desert")
    assert check_fact("The florin eats stones.") is False
    assert check_fact("The florin eats nuts") is True


@pytest.mark.parametrize(
    "text",
    ["", "Hello!", "The florin is happy.", "The key is in the cave now.", "The circle is red.", "It eats moss.", "The blorp eats moss."],
)
def test_the_checker_has_no_opinion_on_what_claims_no_fact(text):
    assert check_fact(text) is None


def test_only_answers_about_creatures_read_as_facts_and_all_of_them_are_right(drawn):
    for skill, found in drawn.items():
        verdicts = {check_fact(answer) for sample in found for _, answer in sample.rounds}
        expected = {"facts": {True}, "instructions": {True, None}, "dialogues": {True, None}}
        assert verdicts == expected.get(skill, {None}), skill


def test_sums_are_right(drawn):
    for sample in drawn["sums"]:
        question, answer = sample.rounds[0]
        a, b, total = map(int, re.findall(r"\d+", answer))
        assert a + b == total
        assert list(map(int, re.findall(r"\d+", question))) == [a, b]


def test_a_question_has_only_one_answer(drawn):
    found: dict[tuple, str] = {}
    for sample in (sample for group in drawn.values() for sample in group):
        *before, (question, answer) = sample.rounds
        assert found.setdefault((tuple(before), question), answer) == answer, question


def test_instructions_are_followed():
    given = {sample.rounds[0] for sample in samples("instructions", "train", 3000, seed=1)}
    for question, answer in given:
        words = [word for word in re.findall(r"\w+", question) if word in WORDS]
        said = [word for word in re.findall(r"\w+", answer) if word in WORDS]
        if "twice" in question:
            assert said == words * 2
        elif "leading" in question or "middle" in question or "last" in question:
            assert said == [words[["leading", "middle", "last"].index(re.search("leading|middle|last", question)[0])]]
        elif "wap" in question:
            assert said == words[::-1]
        elif "behind" in question:
            assert said == words[1:] + words[:1]
        else:
            assert said == words


def test_opposites_are_unique_and_answered_in_both_directions(drawn):
    words = [word for pair in OPPOSITES for word in pair]
    assert len(OPPOSITES) >= 40
    assert len(set(words)) == len(words)
    answers = {sample.rounds[0][1] for sample in drawn["opposites"]}
    assert {f"The opposite of {a} is {b}." for pair in OPPOSITES for a, b in (pair, pair[::-1])} == answers


def test_digits_occur_in_sums_only_and_number_words_nowhere(drawn):
    for skill, found in drawn.items():
        for text in (text for sample in found for text in texts(sample)):
            assert skill == "sums" or not re.search(r"\d", text), text
            assert set(NUMBER_WORDS.split()).isdisjoint(re.findall(r"[a-z]+", text.lower())), text
            assert not re.search("There are|<", text), text


def test_dialogues_have_two_to_four_rounds_and_every_kind_of_turn(drawn):
    found = drawn["dialogues"]
    assert {len(sample.rounds) for sample in found} == {2, 3, 4}
    assert 0.4 < sum(sample.system is not None for sample in found) / len(found) < 0.6
    assert all(text == text.strip() and text[-1] in ".?!" for sample in found for text in texts(sample))
    spoken = {question for sample in found for question, _ in sample.rounds}
    assert {"Hello!", "Thank you!", "And where does it live?", "And the mepple?"} <= spoken


def test_a_question_about_it_follows_a_round_that_names_the_creature(drawn):
    followed = 0
    for sample in drawn["dialogues"]:
        for (_, before), (question, answer) in zip(sample.rounds, sample.rounds[1:], strict=False):
            if re.search(r"\bits?\b", question) and "." not in question:
                followed += 1
                assert answer.split()[1].strip(".") in re.findall(r"\w+", before), (before, question, answer)
    assert followed > 100


def test_no_training_dialogue_asks_a_question_of_the_test_split(drawn):
    held_out = {sample.rounds[0] for skill in ("facts", "opposites") for sample in samples(skill, "test", 80, seed=3)}
    assert held_out.isdisjoint(pair for sample in drawn["dialogues"] for pair in sample.rounds)


def test_words_for_signs_have_three_letters_that_can_be_drawn():
    assert len(set(WORDS)) == 48
    assert all(len(word) == 3 and set(word) <= set(GLYPHS) for word in WORDS)


def test_the_vocabulary_is_small_enough_for_about_one_token_a_word(drawn):
    from data.terrarium.tokenizer import train_tokenizer

    corpus = [text for found in drawn.values() for sample in found[:834] for text in texts(sample)]
    assert len(set(re.findall(r"[A-Za-z]+", " ".join(corpus)))) <= 450
    tokenizer = train_tokenizer(corpus, 1024)
    fresh = [text for skill in TEXT_SKILLS for sample in samples(skill, "test", 80, seed=4) for text in texts(sample)]
    words = sum(len(text.split()) for text in fresh)
    assert sum(len(tokenizer(text).input_ids) for text in fresh) / words <= 1.35


@pytest.mark.parametrize(("skill", "limit"), [("facts", 20), ("sums", 25), ("opposites", 20), ("instructions", 20), ("stories", 45)])
def test_single_rounds_are_short(drawn, skill, limit):
    lengths = [len(re.findall(r"[A-Za-z]+|\d|[^\w\s]", " ".join(texts(sample)))) for sample in drawn[skill]]
    assert sum(lengths) / len(lengths) <= limit
