"""Numbers in text: every number word, joined in every usual way."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.evaluate.numbers import NUMBER_WORDS, SMALL, TENS, numbers_in

ONES = {value: word for word, value in SMALL.items()} | {value: word for word, value in TENS.items()}


def spell(number: int, hyphen: str = "-", joint: str = " ") -> str:
    """English words for 0 .. 999,999,999."""
    for size, name in ((10**6, "million"), (10**3, "thousand"), (100, "hundred")):
        if number >= size:
            rest = joint + spell(number % size, hyphen, joint) if number % size else ""
            return f"{spell(number // size, hyphen, joint)} {name}{rest}"
    if number in ONES:
        return ONES[number]
    return f"{ONES[number // 10 * 10]}{hyphen}{ONES[number % 10]}"


def test_there_are_32_number_words() -> None:
    assert len(NUMBER_WORDS) == 32


@pytest.mark.parametrize("hyphen", ["-", " "])
@pytest.mark.parametrize("joint", [" ", " and "])
def test_every_number_up_to_999_is_read_back_from_its_words(hyphen: str, joint: str) -> None:
    assert [numbers_in(spell(number, hyphen, joint)) for number in range(1000)] == [[number] for number in range(1000)]


@settings(deadline=None)
@given(st.integers(0, 999_999_999))
def test_large_numbers_are_read_back_from_words_as_well_as_from_digits(number: int) -> None:
    assert numbers_in(spell(number)) == numbers_in(str(number)) == numbers_in(f"{number:,}") == [number]


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(0, 999))
def test_two_numbers_beside_each_other_in_a_sentence_stay_two(first: int, second: int) -> None:
    assert numbers_in(f"There are {spell(first)} circles, {spell(second)} squares.") == [first, second]


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert all(isinstance(number, int | float) for number in numbers_in(text))


@pytest.mark.parametrize("text", ["-3", "12:30", "1/2", "5%", "1,20", "1.2.3"])
def test_a_numeral_that_is_no_plain_number_is_found_but_has_no_whole_value(text: str) -> None:
    assert all(isinstance(number, float) and math.isnan(number) for number in numbers_in(text)) and numbers_in(text)


@pytest.mark.parametrize("text", ["the first", "5th", "3d", "someone", "tense", "and", "a", "-", "hundreds of them"])
def test_ordinals_and_words_that_merely_contain_number_words_are_no_numbers(text: str) -> None:
    assert numbers_in(text) == []


def test_number_words_in_a_row_that_form_no_number_are_several() -> None:
    assert numbers_in("five six twenty thirty two twenty and five") == [5, 6, 20, 32, 20, 5]
