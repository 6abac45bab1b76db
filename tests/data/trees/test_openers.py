import importlib.util
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


def _templates():
    spec = importlib.util.spec_from_file_location("tree_templates", CONFTEST)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


T = _templates()
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def _derive(tokenizer, **options):
    from data.trees.openers import derive

    return derive(tokenizer, **options)


def test_the_terrariums_openers_are_its_role_tokens(tokenizer):
    openers = _derive(tokenizer)
    assert openers.roots[None] == "<s><|user|>"
    assert dict(openers.after) == {"user": "<|end|><|assistant|>", "assistant": "<|end|><|user|>"}
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert openers.stops["user"].ids == openers.stops["assistant"].ids == (end,)


def test_chatml_turns_end_with_its_closing_token(with_template):
    tokenizer = with_template(T.CHATML, CHATML_TOKENS)
    openers = _derive(tokenizer)
    assert openers.roots[None] == "<|im_start|>user\n"
    assert openers.after["user"] == "<|im_end|>\n<|im_start|>assistant\n"
    assert openers.after["assistant"] == "<|im_end|>\n<|im_start|>user\n"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in openers.stops["user"].ids
    assert openers.stops["user"].texts == ()


def test_llama2_questions_end_at_a_text_and_answers_at_a_token(with_template):
    tokenizer = with_template(T.LLAMA2)
    openers = _derive(tokenizer)
    assert openers.roots[None] == "<s>[INST] "
    assert openers.after["user"] == " [/INST] "
    assert openers.after["assistant"] == " <|end|><s>[INST] "
    assert openers.stops["user"].texts == ("[/INST]",)
    assert openers.stops["assistant"].texts == ()
    assert "[INST]" in openers.markers


def test_llama2_puts_the_system_prompt_inside_the_first_question(with_template):
    openers = _derive(with_template(T.LLAMA2), systems=("Be kind.",))
    assert openers.roots["Be kind."] == "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n"


def test_llama3_openers_hold_headers_but_role_words_are_no_markers(with_template):
    tokenizer = with_template(T.LLAMA3, LLAMA3_TOKENS)
    openers = _derive(tokenizer)
    assert openers.after["user"] == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in openers.stops["assistant"].ids
    assert "assistant" not in openers.markers
    assert "<|start_header_id|>" in openers.markers


def test_a_thinking_template_opens_answers_with_the_empty_thought(with_template):
    openers = _derive(with_template(T.THINKING, CHATML_TOKENS))
    assert openers.after["user"] == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_the_models_own_end_tokens_end_every_turn(tokenizer):
    assert 77 in _derive(tokenizer, end_ids=(77,)).stops["user"].ids


def test_a_tokenizer_without_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        _derive(tokenizer)


def test_a_template_that_refuses_a_system_turn_says_so(with_template):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + T.CHATML
    with pytest.raises(ValueError, match="no system role"):
        _derive(with_template(refusing, CHATML_TOKENS), systems=("Be kind.",))


def test_rendered_openers_make_the_same_text_as_the_template(with_template):
    tokenizer = with_template(T.LLAMA3, LLAMA3_TOKENS)
    openers = _derive(tokenizer)
    text = openers.prompt(None, [("user", "Hi"), ("assistant", "Hello")]) + "Bye"
    messages = [{"role": role, "content": content} for role, content in (("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))]
    assert tokenizer.apply_chat_template(messages, tokenize=False).startswith(text)


def test_a_blank_that_belongs_to_the_next_word_is_left_to_the_model():
    from data.trees.openers import requests

    class Joining:
        """Joins a blank with the word after it, as SentencePiece does."""

        def __call__(self, text, add_special_tokens):
            import re

            if isinstance(text, list):
                return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
            return {"input_ids": [sum(map(ord, piece)) for piece in re.findall(r" ?\w+| ?[^\w ]+| ", text)]}

    lone, without = requests(["[INST] ", "[INST]"], [0, 1], Joining())
    assert (lone.ids, lone.prompt) == (without.ids, without.prompt)
    assert len(lone.ids) == 3


def test_a_stop_text_keeps_the_lines_end_before_it(with_template):
    template = "{% for m in messages %}{{ ('Q: ' if m['role'] == 'user' else 'A: ') + m['content'] + '\\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
    assert _derive(with_template(template)).stops["user"].texts == ("\nA:",)
