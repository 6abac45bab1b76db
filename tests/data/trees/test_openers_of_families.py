"""Openers of the chat templates of real families, against what the templates write themselves."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from data.template import DATE
from data.trees.openers import Openers, derive

FILE = Path(__file__).parents[1] / "test_templates.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("families_of_templates", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


T = _load()
NO_SYSTEM = {"llama2", "gemma"}
SYSTEMS = (None, "Be kind.")


@pytest.fixture(params=[(name, system) for name in T.FAMILIES for system in SYSTEMS if system is None or name not in NO_SYSTEM])
def family(request: pytest.FixtureRequest) -> tuple[str, str | None, Any]:
    name, system = request.param
    T.FORMATTERS.setdefault(name, T.formatter_of(name))
    return name, system, T.tokenizer_of(name)


def _openers(family: tuple[str, str | None, Any], **more: Any) -> Openers:
    return derive(family[2], systems=(family[1],), **more)


def _theirs(family: tuple[str, str | None, Any], *turns: tuple[str, str], **more: Any) -> str:
    name, system, tokenizer = family
    told = [("system", system), *turns] if system is not None else list(turns)
    parts = T.FAMILIES[name].in_parts
    messages = [{"role": role, "content": [{"type": "text", "text": text}] if parts else text} for role, text in told]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, date_string=DATE, enable_thinking=False, **more))


def test_a_first_question_stands_where_the_template_puts_it(family):
    assert _theirs(family, ("user", "Why?"), ("assistant", "So.")).startswith(_openers(family).prompt(family[1], []) + "Why?")


def test_an_answer_is_asked_for_as_the_template_asks(family):
    prompt = _openers(family).prompt(family[1], [("user", "Why?")])
    # Templates differ in a last blank between what they write to be continued and what they write around an answer.
    assert prompt.rstrip() == _theirs(family, ("user", "Why?"), add_generation_prompt=True).rstrip()


def test_a_follow_up_question_stands_where_the_template_puts_it(family):
    turns = [("user", "Why?"), ("assistant", "So.")]
    text = _openers(family).prompt(family[1], turns) + "And?"
    assert _theirs(family, *turns, ("user", "And?")).startswith(text)


def test_a_second_answer_is_asked_for_as_the_template_asks(family):
    turns = [("user", "Why?"), ("assistant", "So."), ("user", "And?")]
    prompt = _openers(family).prompt(family[1], turns)
    assert prompt.rstrip() == _theirs(family, *turns, add_generation_prompt=True).rstrip()


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_what_follows_a_turn_holds_what_ends_it(family, role):
    openers, tokenizer = _openers(family), family[2]
    stop, after = openers.stops[role], openers.after[role]
    own = [tokenizer.convert_ids_to_tokens(number) for number in stop.ids] + list(stop.texts)
    assert any(text in after for text in own)


@pytest.mark.parametrize("name", sorted(NO_SYSTEM))
def test_a_template_without_system_turns_says_so(name):
    T.FORMATTERS.setdefault(name, T.formatter_of(name))
    with pytest.raises(ValueError, match="system"):
        derive(T.tokenizer_of(name), systems=("Be kind.",))


def test_thinking_is_opened_only_when_asked_for():
    T.FORMATTERS.setdefault("qwen3", T.formatter_of("qwen3"))
    tokenizer = T.tokenizer_of("qwen3")
    assert derive(tokenizer).after["user"].endswith("<think>\n\n</think>\n\n")
    assert "<think>" not in derive(tokenizer, thinking=True).after["user"]
