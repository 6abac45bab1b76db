"""Parsers of answers, with the scores made of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.evaluate import score

COUNTS = {
    "There are 5 circles": 5,
    "There are 5 circles in this image.": 5,
    "five": 5,
    "Sixteen.": 16,
    "sixteen": 16,
    "1,200": 1200,
    "There are 1,200 ants, more or less": 1200,
    "twenty one": 21,
    "twenty-one": 21,
    "one hundred and five": 105,
    "none": 0,
    "None of them.": 0,
    "There are no circles.": 0,
    "zero": 0,
    "5.0": 5,
    "5, that is five": 5,
    "There is 1 circle, no more.": 1,
    "The 2nd row has 7": 7,
    "5 or 6": None,
    "five six": None,
    "2.5": None,
    "-3": None,
    "12:30": None,
    "a red circle": None,
    "": None,
    "north": None,
}
CLOCKS = {
    "03:05": (3, 5),
    "It is 3:05.": (3, 5),
    "3:05 pm": (3, 5),
    "15:05": (3, 5),
    "12:15": (0, 15),
    "00:15": (0, 15),
    "three o'clock": (3, 0),
    "3 o’clock": (3, 0),
    "03:05, or 15:05": (3, 5),
    "3:05 or 4:10": None,
    "25:00": None,
    "3:61": None,
    "3:5": None,
    "12:345": None,
    "1:02:30": None,
    "5": None,
    "": None,
}
LETTERS = {
    "B": "B",
    "b": "B",
    " b. ": "B",
    "(B)": "B",
    "B) striped": "B",
    "The answer is B.": "B",
    "the answer is (c)": "C",
    "answer: D": "D",
    "A": "A",
    "It is A.": "A",
    "A circle": None,
    "A circle is in B": "B",
    "I think C": "C",
    "B or C": None,
    "bee": None,
    "5": None,
    "": None,
}
WORDS = {
    "cat": "cat",
    "Cat.": "cat",
    '"cat"': "cat",
    "It says 'cat'.": "cat",
    "The word is cat": "cat",
    "The word: cat!": "cat",
    "don't": "don't",
    "It is a red circle.": None,
    "There are 5 circles": None,
    "5": None,
    "": None,
}
YES_NO = {
    "Yes": "yes",
    "no.": "no",
    "No, it is not": "no",
    "yes, there is no doubt": "yes",
    "well, no": "no",
    "well, yes or no": None,
    "Yesterday": None,
    "nothing": None,
    "": None,
}
CASES = [
    *(("count", text, value) for text, value in COUNTS.items()),
    *(("clock", text, value) for text, value in CLOCKS.items()),
    *(("letter", text, value) for text, value in LETTERS.items()),
    *(("word", text, value) for text, value in WORDS.items()),
    *(("yes_no", text, value) for text, value in YES_NO.items()),
    ("exact", "  The  star is\nRED. ", "the star is red"),
    ("exact", "“Red”!", "red"),
    ("exact", " . ", None),
    ("exact", "", None),
]


@pytest.mark.parametrize(("kind", "text", "value"), CASES)
def test_a_parser_reads_the_value_of_an_answer(kind: str, text: str, value: object) -> None:
    assert score.PARSERS[kind](text) == value


@settings(deadline=None)
@given(st.sampled_from(sorted(score.PARSERS)), st.text(max_size=80))
def test_no_text_breaks_a_parser(kind: str, text: str) -> None:
    score.PARSERS[kind](text)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["{}", "There are {} circles.", "I count {} of them", "the answer: {}"]))
def test_a_count_is_found_whatever_sentence_stands_around_it(number: int, sentence: str) -> None:
    assert score.parse_count(sentence.format(number)) == score.parse_count(sentence.format(f"{number:,}")) == number


@settings(deadline=None)
@given(st.integers(0, 23), st.integers(0, 59))
def test_a_time_is_read_with_or_without_its_leading_zero(hour: int, minute: int) -> None:
    assert score.parse_clock(f"It is {hour}:{minute:02d}") == score.parse_clock(f"{hour:02d}:{minute:02d}.") == (hour % 12, minute)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert score.normalise(score.normalise(text)) == score.normalise(text)


def test_the_right_value_in_another_form_is_correct_but_not_strictly() -> None:
    assert score.is_correct("count", "five", "There are 5 circles.")
    assert not score.is_strictly_correct("five", "There are 5 circles.")
    assert score.is_strictly_correct("there are 5  circles", "There are 5 circles.")


def test_an_unparsed_answer_is_wrong_and_counted_apart_from_wrong_values() -> None:
    found = score.score_answers("count", ["5", "There are 6.", "a cat", ""], ["5", "5", "5", "5"])
    assert (found["n"], found["correct"], found["unparsed"]) == (4, 1, 2)
    assert (found["accuracy"], found["strict_accuracy"]) == (0.25, 0.25)


def test_wilson_interval_agrees_with_published_values() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (correct, n), interval in published.items():
        assert score.wilson_interval(correct, n) == pytest.approx(interval, abs=6e-5)


def test_interval_of_no_observation_is_everything() -> None:
    assert score.wilson_interval(0, 0) == (0.0, 1.0)
