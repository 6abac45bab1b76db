"""Reads the value that a free answer gives, so that it can be scored.

Every parser takes the text of an answer; it returns the value, or None when the text holds no single value of its kind. An
answer is *correct* when its value equals that of the expected answer, *strictly correct* when its normalised text does too:
the difference is a lost format, not a lost skill. Pure functions, no model.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from train.evaluate.numbers import numbers_in

Value = str | int | tuple[int, int]

_FINAL_PUNCTUATION = " \t\n.!?…,;:"
_QUOTES = "\"'“”‘’`"
_CLOCK = re.compile(r"(?<![\d:.])(\d{1,2}):(\d{2})(?![\d:])\s*([ap])?\.?m?\b", re.IGNORECASE)
_WHOLE_HOUR = re.compile(r"\b(\w+)\s+o\s?['’]?\s?clock\b", re.IGNORECASE)
_LONE_LETTER = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_BRACKETED_LETTER = re.compile(r"\(([A-Za-z])\)")
_SINGLE_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_QUOTED_WORD = re.compile(r"[\"“”‘`']([^\W\d_]+)[\"“”’`']")
_NAMED_WORD = re.compile(r"(?:\b(?:is|says|reads|word|spells)\b|:)\s*([^\W\d_]+(?:['’-][^\W\d_]+)*)$", re.IGNORECASE)


def normalise(text: str) -> str:
    """`text` without differences of case, spacing, quotes around it, or punctuation at its end."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(_FINAL_PUNCTUATION).strip(_QUOTES).rstrip(_FINAL_PUNCTUATION)


def parse_exact(text: str) -> str | None:
    """The normalised text itself; None when nothing is left of it."""
    return normalise(text) or None


def parse_count(text: str) -> int | None:
    """The one whole number in `text`: "There are 5 circles", "sixteen", "1,200", "twenty one", "none".

    "no" counts as zero only where no number stands ("There are no circles"). Two different numbers, a fraction, a negative
    number or a clock time give None: none of them is one count.
    """
    found = set(numbers_in(text))
    if not found and re.search(r"\b(?:no|none|nothing)\b", text, re.IGNORECASE):
        return 0
    value = found.pop() if len(found) == 1 else None
    return value if isinstance(value, int) else None


def parse_clock(text: str) -> tuple[int, int] | None:
    """Hour and minute of the one time in `text`, on a dial: 03:05, 3:05, "3:05 pm" and 15:05 are the same; 12 is 0."""
    times = {(int(hour) % 12, int(minute)) for hour, minute, _ in _CLOCK.findall(text) if int(hour) <= 24 and int(minute) < 60}
    for hour in _WHOLE_HOUR.findall(text):
        times |= {(value % 12, 0) for value in numbers_in(hour) if isinstance(value, int) and 1 <= value <= 12}
    return times.pop() if len(times) == 1 else None


def parse_letter(text: str) -> str | None:
    """The one choice letter in `text`, upper case: "b", "(B)", "B) striped", "The answer is B."; the article "A" is none."""
    bare = text.strip(_FINAL_PUNCTUATION + _QUOTES + "()[]*")
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return bare.upper()
    found = {letter.upper() for letter in _BRACKETED_LETTER.findall(text)}
    for match in _LONE_LETTER.finditer(text):
        is_a_word = match[1] in "AI" and re.match(r"\s+[^\W\d_]", text[match.end() :])
        if not is_a_word:
            found.add(match[1])
    return found.pop() if len(found) == 1 else None


def parse_word(text: str) -> str | None:
    """The one word that `text` names, lower case: "cat", "It says 'cat'.", "The word is cat"; other sentences give None."""
    plain = normalise(text)
    if _SINGLE_WORD.fullmatch(plain):
        return plain
    quoted = {word.casefold() for word in _QUOTED_WORD.findall(text)}
    if quoted:
        return quoted.pop() if len(quoted) == 1 else None
    named = _NAMED_WORD.search(plain)
    return named[1] if named else None


def parse_yes_no(text: str) -> str | None:
    """The first word if it is "yes" or "no", else the only one of the two in `text`."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if words and words[0] in ("yes", "no"):
        return words[0]
    found = {"yes", "no"}.intersection(words)
    return found.pop() if len(found) == 1 else None


PARSERS: dict[str, Callable[[str], Value | None]] = {
    "exact": parse_exact,
    "count": parse_count,
    "clock": parse_clock,
    "letter": parse_letter,
    "word": parse_word,
    "yes_no": parse_yes_no,
}


def is_correct(kind: str, answer: str, expected: str) -> bool:
    """Whether `answer` gives the value that `expected` gives; `kind` is a key of `PARSERS`."""
    value = PARSERS[kind](answer)
    return value is not None and value == PARSERS[kind](expected)


def is_strictly_correct(answer: str, expected: str) -> bool:
    """Whether `answer` has the normalised text of `expected`: the right value in the right form."""
    return normalise(answer) == normalise(expected) != ""


def wilson_interval(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a share of `correct` in `n`, 95 % for the default `z`; (0, 1) without any observation."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def score_answers(kind: str, answers: Sequence[str], expected: Sequence[str]) -> dict:
    """Counts over one task: n, correct, accuracy, strict_accuracy, unparsed and the accuracy's 95 % interval."""
    n = len(answers)
    correct = sum(is_correct(kind, answer, right) for answer, right in zip(answers, expected, strict=True))
    strictly = sum(is_strictly_correct(answer, right) for answer, right in zip(answers, expected, strict=True))
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n if n else 0.0,
        "strict_accuracy": strictly / n if n else 0.0,
        "unparsed": sum(PARSERS[kind](answer) is None for answer in answers),
        "interval": list(wilson_interval(correct, n)),
    }
