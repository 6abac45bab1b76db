"""Ids and loss masks against the templates that made them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.chat import encode, encode_all, prompt_ids, render_prompt
from data.conversation import Conversation, Turn
from data.pictures import Pictures
from data.template import take_apart

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
TEMPLATES = {"terrarium": None, "chatml": CHATML, "llama2": LLAMA2, "parts": PARTS}
CLOSERS = {"terrarium": "<|end|>", "chatml": "<|im_end|>", "llama2": " <|end|>", "parts": ""}


def dialogue(*texts: str, images: int = 0) -> Conversation:
    roles: Sequence[Any] = ("user", "assistant")
    turns = tuple(Turn(role=roles[number % 2], text=text) for number, text in enumerate(texts))
    return Conversation(id="0", turns=turns, images=tuple(Path(f"{number}.png") for number in range(images)), source="talk.json", record=4)


@pytest.fixture(params=TEMPLATES)
def named(request: pytest.FixtureRequest, tiny_folder: Path) -> tuple[str, Any]:
    """A template's name, then the tiny tokenizer with that template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    if TEMPLATES[request.param] is not None:
        tokenizer.chat_template = TEMPLATES[request.param]
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}, replace_extra_special_tokens=False)
    return request.param, tokenizer


def learned(tokenizer: Any, one: Conversation, **settings: Any) -> str:
    """The text of the tokens that carry loss."""
    encoded = encode(one, tokenizer, pictures=Pictures(fixed=16), **settings)
    return str(tokenizer.decode([token for token, kept in zip(encoded.input_ids, encoded.labels_mask, strict=True) if kept]))


def test_exactly_the_assistants_text_with_its_closer_carries_loss(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    one = dialogue("What is two plus five?", "Two plus five is 7.", "And where?", "In a cave.")
    text = learned(tokenizer, one)
    expected = f"Two plus five is 7.{CLOSERS[name]}In a cave.{CLOSERS[name]}"
    assert text.replace(" ", "") == expected.replace(" ", "")


def test_loss_on_all_adds_the_users_text_with_its_closer(tiny: tuple[Any, Any]) -> None:
    text = learned(tiny[1].tokenizer, dialogue("Who?", "Me."), loss_on="all")
    assert text == "Who?<|end|>Me.<|end|>"


def test_ids_are_those_of_the_rendered_template(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    one = dialogue("What is two plus five?", "Two plus five is 7.")
    plain = [{"role": turn.role, "content": turn.text} for turn in one.turns]
    parts = [{"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in one.turns]
    text = tokenizer.apply_chat_template(parts if name == "parts" else plain, tokenize=False)
    assert encode(one, tokenizer, pictures=Pictures(fixed=16)).input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_prompt_is_what_stands_before_the_last_answer(named: tuple[str, Any]) -> None:
    _, tokenizer = named
    one = dialogue("Who?", "Me.", "Where?", "Here.")
    encoded = encode(one, tokenizer, pictures=Pictures(fixed=16))
    prompt = prompt_ids(one, tokenizer, pictures=Pictures(fixed=16))
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels_mask[len(prompt)]
    assert not encoded.labels_mask[len(prompt) - 1]


def test_a_prompt_of_one_round_leaves_later_rounds_out(tiny: tuple[Any, Any]) -> None:
    assert render_prompt(dialogue("Who?", "Me.", "Where?", "Here."), tiny[1].tokenizer, rounds=1) == "<s><|user|>Who?<|end|><|assistant|>"


def test_an_image_takes_its_number_of_tokens_without_loss(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    encoded = encode(dialogue("<image>\nWho?", "Me.", images=1), tokenizer, pictures=Pictures(fixed=16), loss_on="all")
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert encoded.input_ids.count(image) == 16
    assert not any(kept for token, kept in zip(encoded.input_ids, encoded.labels_mask, strict=True) if token == image)


def test_many_at_once_are_encoded_like_one_by_one(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    several = [dialogue("Who?", "Me."), dialogue("<image>Where is it?", "In a warm cave.", "Sure?", "Yes.", images=1)]
    for (ids, mask), one in zip(encode_all(several, tokenizer, pictures=Pictures(fixed=4)), several, strict=True):
        alone = encode(one, tokenizer, pictures=Pictures(fixed=4))
        assert (ids.tolist(), mask.tolist()) == (alone.input_ids, alone.labels_mask)


def test_words_of_the_template_inside_a_text_do_not_shift_the_mask(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    text = learned(tokenizer, dialogue("user assistant [INST]", "assistant user", "a", "a"))
    assert text.replace(" ", "") == f"assistant user{CLOSERS[name]}a{CLOSERS[name]}".replace(" ", "")


def test_a_template_that_strips_texts_is_known_to_do_so(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    assert take_apart(("user", "assistant"), tokenizer).strips == ((False, False), (False, False))
    tokenizer.chat_template = LLAMA2
    assert take_apart(("user", "assistant"), tokenizer).strips == ((True, True), (True, True))


def test_a_template_that_rewrites_a_text_is_an_error_that_names_the_record(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    tokenizer.chat_template = CHATML.replace("+ message['content'] +", "+ message['content'].split('</think>')[-1] +")
    with pytest.raises(ValueError, match=r"talk\.json record 4: the chat template"):
        encode(dialogue("Who?", "<think>hm</think>Me."), tokenizer, pictures=Pictures(fixed=4))


def test_a_template_that_refuses_the_roles_is_an_error_that_names_the_record(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    tokenizer.chat_template = "{{ raise_exception('no dialogue at all') }}"
    with pytest.raises(ValueError, match=r"talk\.json record 4: .*no dialogue at all"):
        encode(dialogue("Who?", "Me."), tokenizer, pictures=Pictures(fixed=4))
