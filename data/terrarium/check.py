"""Judges answers to questions that a model wrote itself, by what is so in the Terrarium's world."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from data.terrarium.creatures import ABOUT, ATTRIBUTES, BY_NAME, CREATURES, FOLLOW_UPS, QUESTIONS, check_fact
from data.terrarium.language import DWELLERS, INSTRUCTIONS, OPPOSITE_OF, OPPOSITE_QUESTIONS, STORIES, SUMS

VALUES = {attribute: frozenset(getattr(creature, attribute) for creature in CREATURES) for attribute in ATTRIBUTES}
_WORD = re.compile(r"[A-Za-z]+")
_NEGATION = re.compile(r"\b(?:not|no|never|nor|neither)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What the rounds before have left in mind: the creature that "it" means, the attribute asked for, the story told."""

    creature: str | None = None
    attribute: str | None = None
    story: str = ""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question that was understood: the test of an answer, with what the question leaves in mind."""

    is_right: Callable[[str], bool]
    context: _Context


def judge(question: str, answer: str) -> bool | None:
    """Whether the answer to a question is right in the Terrarium's world.

    Decided are questions of the forms that the Terrarium's text skills have, whatever creatures, numbers, words they hold: facts, sums,
    opposites, dwellers of a home, orders about words, stories that the question tells. An answer to a fact, sum or opposite may be worded
    freely: it is right when it names the right value, no other one, and claims nothing wrong beside; the answer to an order or a story
    must be the expected sentence. To other questions an answer is right when its claims about creatures are.

    Returns:
        None when the question is none that the world can decide (another form, an unknown creature, word or home) and the answer claims
        nothing about a known creature.
    """
    return judge_dialogue([(question, answer)])[0]


def judge_dialogue(rounds: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Judges each answer of a dialogue as `judge` does, follow-up questions by the rounds before them.

    "It" is the creature that was asked about last, or else named last; "And the florin?" asks for what was asked of the creature before;
    questions about a story that an earlier round told are about that story.

    Args:
        rounds: Pairs of question and answer, in order.

    Returns:
        A verdict for each round.
    """
    verdicts: list[bool | None] = []
    context = _Context()
    for question, answer in rounds:
        asked = _understand(" ".join(question.split()), context)
        if asked is not None:
            verdicts.append(asked.is_right(answer))
            context = asked.context
        else:
            verdicts.append(check_fact(_without_pronoun(answer, context.creature)))
            context = _Context(creature=_last_creature(f"{question} {answer}") or context.creature, story=context.story)
    return verdicts


# --- questions -------------------------------------------------------------------------------------------------------


def _form(template: str) -> re.Pattern[str]:
    """The pattern of a template's texts: one word for each field, the same word wherever a field comes again."""
    pattern, known = "", set[str]()
    for literal, field, _, _ in string.Formatter().parse(template):
        pattern += re.escape(literal)
        if field is not None:
            pattern += f"(?P={field})" if field in known else rf"(?P<{field}>\w+)"
            known.add(field)
    return re.compile(pattern)


_FACTS = [(_form(phrasing), attribute) for attribute, phrasings in QUESTIONS.items() for phrasing in phrasings]
_FOLLOW_UPS = {phrasing: attribute for attribute, phrasings in FOLLOW_UPS.items() for phrasing in phrasings}
_SAME_OF = _form("And the {name}?")
_SUMS = [_form(phrasing) for phrasing in SUMS]
_OPPOSITES = [_form(phrasing) for phrasing in (*OPPOSITE_QUESTIONS, "And the opposite of {word}?")]
_DWELLERS = [_form(phrasing) for phrasing in INSTRUCTIONS["dwellers"][0]]
_ORDERS = [(_form(order), answer) for kind, (orders, answer) in INSTRUCTIONS.items() if kind != "dwellers" for order in orders]
_STORIES = [(_form(f"{story.text} {question}"), story.text, answer) for story in STORIES.values() for question, answer in story.rounds]


def _understand(question: str, context: _Context) -> _Asked | None:
    """What a question asks; None when it is of no known form, or about something unknown."""
    for read in (_read_fact, _read_sum, _read_opposite, _read_dwellers, _read_order, _read_story):
        if (asked := read(question, context)) is not None:
            return asked
    return None


def _read_fact(question: str, context: _Context) -> _Asked | None:
    name, attribute = context.creature, _FOLLOW_UPS.get(question)
    if same := _SAME_OF.fullmatch(question):
        name, attribute = same["name"], context.attribute
    for form, asked_for in _FACTS:
        if match := form.fullmatch(question):
            name, attribute = match["name"], asked_for
    if attribute is None or name not in BY_NAME:
        return None
    return _Asked(
        is_right=partial(_tells_fact, name=name, attribute=attribute), context=replace(context, creature=name, attribute=attribute)
    )


def _read_sum(question: str, context: _Context) -> _Asked | None:
    fields = _first_match(_SUMS, question)
    if fields is None or not (fields["a"].isdecimal() and fields["b"].isdecimal()):
        return None
    return _Asked(is_right=partial(_tells_sum, a=int(fields["a"]), b=int(fields["b"])), context=replace(context, attribute=None))


def _read_opposite(question: str, context: _Context) -> _Asked | None:
    fields = _first_match(_OPPOSITES, question)
    if fields is None or fields["word"] not in OPPOSITE_OF:
        return None
    return _Asked(is_right=partial(_tells_opposite, word=fields["word"]), context=replace(context, attribute=None))


def _read_dwellers(question: str, context: _Context) -> _Asked | None:
    fields = _first_match(_DWELLERS, question)
    if fields is None or fields["home"] not in DWELLERS:
        return None
    dwellers = DWELLERS[fields["home"]]
    return _Asked(is_right=partial(_names_dwellers, dwellers=dwellers), context=replace(context, creature=dwellers[-1], attribute=None))


def _read_order(question: str, context: _Context) -> _Asked | None:
    """An order may be of two forms ("Please repeat key twice."): either way of following it is right."""
    expected = {_fill(answer, match) for form, answer in _ORDERS if (match := form.fullmatch(question))}
    return _Asked(is_right=partial(_says, expected=expected), context=replace(context, attribute=None)) if expected else None


def _read_story(question: str, context: _Context) -> _Asked | None:
    for told in (question, f"{context.story} {question}"):
        for form, text, answer in _STORIES:
            if match := form.fullmatch(told):
                left = replace(context, attribute=None, story=_fill(text, match))
                return _Asked(is_right=partial(_says, expected={_fill(answer, match)}), context=left)
    return None


def _first_match(forms: Sequence[re.Pattern[str]], question: str) -> Mapping[str, str] | None:
    return next((match.groupdict() for form in forms if (match := form.fullmatch(question))), None)


def _fill(template: str, match: re.Match[str]) -> str:
    return template.format(**match.groupdict())


# --- answers ---------------------------------------------------------------------------------------------------------


def _tells_fact(answer: str, *, name: str, attribute: str) -> bool:
    answer = _without_pronoun(answer, name)
    claims, words = check_fact(answer), set(_WORD.findall(answer))
    if claims is False or (claims and name not in words):
        return False
    if attribute == ABOUT:
        return claims is True
    others, value = words & BY_NAME.keys() - {name}, getattr(BY_NAME[name], attribute)
    if words & VALUES[attribute] - {name} != {value}:
        return False
    return claims is True or not (others - {value} or _NEGATION.search(answer))


def _tells_sum(answer: str, *, a: int, b: int) -> bool:
    numbers = list(map(int, re.findall(r"\d+", answer)))
    return bool(numbers) and numbers[-1] == a + b and sorted(numbers[:-1]) in ([], sorted((a, b))) and not _NEGATION.search(answer)


def _tells_opposite(answer: str, *, word: str) -> bool:
    told = {found for found in _WORD.findall(answer.lower()) if found in OPPOSITE_OF}
    asked = re.findall(r"opposite of (\w+)", answer.lower())
    return told - {word} == {OPPOSITE_OF[word]} and asked in ([], [word]) and not _NEGATION.search(answer)


def _names_dwellers(answer: str, *, dwellers: tuple[str, ...]) -> bool:
    named = set(_WORD.findall(answer)) & BY_NAME.keys()
    return named == set(dwellers) and check_fact(answer) is not False and not _NEGATION.search(answer)


def _without_pronoun(answer: str, creature: str | None) -> str:
    """The answer with the creature's name in place of an "It" at its start."""
    return re.sub(r"^\s*It\b", f"The {creature}", answer) if creature is not None else answer


def _last_creature(text: str) -> str | None:
    named = [word for word in _WORD.findall(text) if word in BY_NAME]
    return named[-1] if named else None


def _says(answer: str, *, expected: set[str]) -> bool:
    return _plain(answer) in map(_plain, expected)


def _plain(sentence: str) -> str:
    return " ".join(sentence.split()).rstrip(".!").casefold()
