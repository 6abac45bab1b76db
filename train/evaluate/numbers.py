"""Finds the numbers that an English text names, be it in digits or in words."""

import math
import re

_SMALL_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
SMALL = {word: value for value, word in enumerate(_SMALL_NAMES.split())}
TENS = {word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}

# The 32 number words of the number-token measure (arXiv 2510.08564): zero to nineteen, the tens, hundred, thousand, million, billion.
NUMBER_WORDS = frozenset([*SMALL, *TENS, "hundred", *SCALES])

# A numeral with what clings to it (1,200 2.5 12:30 5th -3), a word, or a single other sign.
_TOKEN = re.compile(r"[-−]?[.]?\d(?:[\w%]|[,.:/](?=\d))*|[^\W\d_]+|[^\s\w]")
_WHOLE = re.compile(r"\d+|\d{1,3}(?:,\d{3})+")
_DECIMAL = re.compile(r"(?:\d+|\d{1,3}(?:,\d{3})+)?\.\d+")


def numbers_in(text: str) -> list[int | float]:
    """Every number in `text`, in order; "twenty-one" and "one hundred and five" are one number each.

    Whole numbers come out as ints. A numeral without one whole value (2.5, -3, 12:30, 1/2, 5%) comes out as a float, NaN where
    it has no value at all, so that a caller who wants a count can refuse it. Ordinals (5th, first) are left out.
    """
    tokens = _TOKEN.findall(text.casefold())
    numbers: list[int | float] = []
    at = 0
    while at < len(tokens):
        value, used = _from_digits(tokens[at]) if any(map(str.isdigit, tokens[at])) else _from_words(tokens[at:])
        if value is not None:
            numbers.append(value)
        at += used
    return numbers


def _from_digits(token: str) -> tuple[int | float | None, int]:
    """The numeral's value, None for an ordinal or a name such as 3d; always one token."""
    if _WHOLE.fullmatch(token):
        return int(token.replace(",", "")), 1
    if _DECIMAL.fullmatch(token):
        value = float(token.replace(",", ""))
        return (int(value) if value.is_integer() else value), 1
    if re.search(r"[^\W\d_]", token):
        return None, 1
    return math.nan, 1


def _from_words(tokens: list[str]) -> tuple[int | None, int]:
    """The longest number spelled at the start of `tokens` with how many tokens it takes; (None, 1) when there is none."""
    total, group, last, smallest_scale, at = 0, 0, "", math.inf, 0
    while at < len(tokens):
        word, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if word in SMALL and _may_add(SMALL[word], last):
            group, last = group + SMALL[word], "small" if SMALL[word] else "zero"
        elif word in TENS and last in ("", "hundred", "scale"):
            group, last = group + TENS[word], "tens"
        elif word == "a" and last == "" and (after == "hundred" or after in SCALES):
            group, last = 1, "small"
        elif word == "hundred" and (last == "" or last == "small" and group < 20):
            group, last = max(group, 1) * 100, "hundred"
        elif word in SCALES and last in ("small", "tens", "hundred") and SCALES[word] < smallest_scale:
            total, group, last, smallest_scale = total + group * SCALES[word], 0, "scale", SCALES[word]
        elif not (_is_joint(word, last) and (after in SMALL and _may_add(SMALL[after], last) or word == "and" and after in TENS)):
            break
        at += 1
    return (total + group, at) if at else (None, 1)


def _may_add(value: int, last: str) -> bool:
    """Whether a word of `value` < 20 may follow: twenty one, hundred five, thousand nineteen, but not five six."""
    return last == "" or value > 0 and (last in ("hundred", "scale") or last == "tens" and value < 10)


def _is_joint(word: str, last: str) -> bool:
    """Whether `word` may stand inside a number: the hyphen of twenty-one, the and of hundred and five."""
    return word == "-" and last == "tens" or word == "and" and last in ("hundred", "scale")
