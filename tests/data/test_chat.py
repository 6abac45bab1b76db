"""Ids and loss masks against the templates that made them."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.chat import ChatFormat, Encoded, Formatter, encode, prompt_ids, render_prompt
from data.conversation import Conversation, Turn
from data.images import ImageSource
from data.pictures import Pictures, pictures_of
from data.problems import BadRecord
from data.template import sought, take_apart
from data.terrarium.tokenizer import build_processor, train_tokenizer

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
    sources = tuple(ImageSource(f"{number}.png") for number in range(images))
    return Conversation(id="0", turns=turns, images=sources, source="talk.json", record=4)


@pytest.fixture
def tokenizer() -> Any:
    """The Terrarium's, with a small vocabulary."""
    return train_tokenizer(["What is two plus five?", "Two plus five is 7.", "The Murlo lives in a warm cave."], vocabulary_size=320)


@pytest.fixture(params=TEMPLATES)
def named(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, Any]:
    """A template's name, then the tokenizer with that template."""
    if TEMPLATES[request.param] is not None:
        tokenizer.chat_template = TEMPLATES[request.param]
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}, replace_extra_special_tokens=False)
    return request.param, tokenizer


def learned(tokenizer: Any, one: Conversation, **settings: Any) -> str:
    """The text of the tokens that carry loss."""
    encoded = encode(one, tokenizer, pictures=Pictures(fixed=16), **settings)
    return str(tokenizer.decode(encoded.input_ids[encoded.labels_mask]))


def encoded_by(tokenizer: Any, one: Conversation, **choices: Any) -> Encoded:
    pictures = choices.pop("pictures", Pictures(fixed=4))
    formatter = Formatter(ChatFormat(tokenizer=tokenizer, pictures=pictures, **choices))
    return next(formatter.tokenise([formatter.render(one)], [[4] * len(one.images)]))


def runs(tokenizer: Any, encoded: Encoded) -> list[tuple[str, float]]:
    """Text with weight of each run of tokens that carries loss."""
    texts = [tokenizer.decode(encoded.input_ids[first:last]) for first, last in encoded.spans]
    return list(zip(texts, encoded.weights.tolist(), strict=True))


def test_exactly_the_assistants_text_with_its_closer_carries_loss(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    one = dialogue("What is two plus five?", "Two plus five is 7.", "And where?", "In a cave.")
    text = learned(tokenizer, one)
    expected = f"Two plus five is 7.{CLOSERS[name]}In a cave.{CLOSERS[name]}"
    assert text.replace(" ", "") == expected.replace(" ", "")


def test_loss_on_all_adds_the_users_text_with_its_closer(tokenizer: Any) -> None:
    text = learned(tokenizer, dialogue("Who?", "Me."), loss_on="all")
    assert text == "Who?<|end|>Me.<|end|>"


def test_ids_are_those_of_the_rendered_template(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    one = dialogue("What is two plus five?", "Two plus five is 7.")
    plain = [{"role": turn.role, "content": turn.text} for turn in one.turns]
    parts = [{"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in one.turns]
    text = tokenizer.apply_chat_template(parts if name == "parts" else plain, tokenize=False)
    assert encode(one, tokenizer, pictures=Pictures(fixed=16)).input_ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_prompt_is_what_stands_before_the_last_answer(named: tuple[str, Any]) -> None:
    _, tokenizer = named
    one = dialogue("Who?", "Me.", "Where?", "Here.")
    encoded = encode(one, tokenizer, pictures=Pictures(fixed=16))
    prompt = prompt_ids(one, tokenizer, pictures=Pictures(fixed=16))
    assert encoded.input_ids[: len(prompt)].tolist() == prompt
    assert encoded.labels_mask[len(prompt)]
    assert not encoded.labels_mask[len(prompt) - 1]


def test_a_prompt_of_one_round_leaves_later_rounds_out(tokenizer: Any) -> None:
    assert render_prompt(dialogue("Who?", "Me.", "Where?", "Here."), tokenizer, rounds=1) == "<s><|user|>Who?<|end|><|assistant|>"


def test_an_image_takes_its_number_of_tokens_without_loss(tokenizer: Any) -> None:
    encoded = encode(dialogue("<image>\nWho?", "Me.", images=1), tokenizer, pictures=Pictures(fixed=16), loss_on="all")
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert (encoded.input_ids == image).sum() == 16
    assert not encoded.labels_mask[encoded.input_ids == image].any()


def test_many_at_once_are_encoded_like_one_by_one(tokenizer: Any) -> None:
    formatter = Formatter(ChatFormat(tokenizer=tokenizer, pictures=Pictures(fixed=4)))
    several = [dialogue("Who?", "Me."), dialogue("<image>Where is it?", "In a warm cave.", "Sure?", "Yes.", images=1)]
    together = formatter.tokenise([formatter.render(one) for one in several], [[], [4]])
    for encoded, one in zip(together, several, strict=True):
        alone = encode(one, tokenizer, pictures=Pictures(fixed=4))
        assert encoded.input_ids.tolist() == alone.input_ids.tolist()
        assert encoded.spans.tolist() == alone.spans.tolist()


def test_words_of_the_template_inside_a_text_do_not_shift_the_mask(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    text = learned(tokenizer, dialogue("user assistant [INST]", "assistant user", "a", "a"))
    assert text.replace(" ", "") == f"assistant user{CLOSERS[name]}a{CLOSERS[name]}".replace(" ", "")


def test_a_template_that_strips_texts_is_known_to_do_so(tokenizer: Any) -> None:
    assert take_apart(("user", "assistant"), tokenizer).strips == (("", ""), ("", ""))
    tokenizer.chat_template = LLAMA2
    assert take_apart(("user", "assistant"), tokenizer).strips == ((None, None), (None, None))


def test_a_template_that_rewrites_a_text_is_an_error_that_names_the_record(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("+ message['content'] +", "+ message['content'].split('</think>')[-1] +")
    with pytest.raises(ValueError, match=r"talk\.json record 4: the chat template"):
        encode(dialogue("Who?", "<think>hm</think>Me."), tokenizer, pictures=Pictures(fixed=4))


def test_a_template_that_refuses_the_roles_is_an_error_that_names_the_record(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no dialogue at all') }}"
    with pytest.raises(ValueError, match=r"talk\.json record 4: .*no dialogue at all"):
        encode(dialogue("Who?", "Me."), tokenizer, pictures=Pictures(fixed=4))


def test_a_bad_record_has_its_kind_without_its_place(tokenizer: Any) -> None:
    with pytest.raises(BadRecord, match=r"^turn 1 holds '<\|end\|>'.* remove the record$") as caught:
        Formatter(ChatFormat(tokenizer=tokenizer)).render(dialogue("Who?", "Me.<|end|>You."))
    assert caught.value.kind == "reserved_token"


@pytest.mark.parametrize("text", ["<s>", "a<|user|>b", "<pad>", "<image>"])
def test_a_control_token_in_a_text_is_refused(tokenizer: Any, text: str) -> None:
    with pytest.raises(BadRecord) as caught:
        Formatter(ChatFormat(tokenizer=tokenizer)).render(dialogue(text, "Me."))
    assert caught.value.kind == "reserved_token"


def test_signs_that_are_no_control_token_are_text(tokenizer: Any) -> None:
    text = "a < b, <b>c</b>, <|, |>, <userr>, [INST]"
    assert runs(tokenizer, encoded_by(tokenizer, dialogue("Who?", text))) == [(f"{text}<|end|>", 1.0)]


def test_pictures_without_a_placeholder_each_are_refused(tokenizer: Any) -> None:
    with pytest.raises(BadRecord) as caught:
        encoded_by(tokenizer, dialogue("<image>Who?", "Me.", images=2))
    assert caught.value.kind == "placeholder_mismatch"


def weighted(*turns: tuple[str, float]) -> Conversation:
    one = dialogue(*[text for text, _ in turns])
    return replace(one, turns=tuple(replace(turn, weight=weight) for turn, (_, weight) in zip(one.turns, turns, strict=True)))


def test_each_turns_weight_is_its_tokens_weight(tokenizer: Any) -> None:
    one = weighted(("Who?", 1), ("Me.", 0.5), ("Where?", 1), ("Here.", 2))
    assert runs(tokenizer, encoded_by(tokenizer, one)) == [("Me.<|end|>", 0.5), ("Here.<|end|>", 2.0)]


def test_a_turn_of_no_weight_gives_no_span(tokenizer: Any) -> None:
    one = weighted(("Who?", 1), ("Me.", 0), ("Where?", 1), ("Here.", 1))
    assert runs(tokenizer, encoded_by(tokenizer, one)) == [("Here.<|end|>", 1.0)]


def test_a_dialogue_of_no_weight_has_no_spans(tokenizer: Any) -> None:
    encoded = encoded_by(tokenizer, weighted(("Who?", 1), ("Me.", 0)))
    assert (encoded.spans.shape, encoded.weights.shape) == ((0, 2), (0,))


def test_only_the_last_turn_that_can_carries_loss(tokenizer: Any) -> None:
    one = weighted(("Who?", 1), ("Me.", 1), ("Where?", 1), ("Here.", 1), ("Why?", 1), ("So.", 0))
    assert runs(tokenizer, encoded_by(tokenizer, one, turns="last")) == [("Here.<|end|>", 1.0)]


def test_touching_tokens_of_one_weight_are_one_run(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '<|end|>' }}{% endfor %}"
    encoded = encoded_by(tokenizer, weighted(("Who?", 1), ("Me.", 1), ("Where?", 0.5)), loss_on="all")
    assert runs(tokenizer, encoded) == [("Who?<|end|>Me.<|end|>", 1.0), ("Where?<|end|>", 0.5)]


def test_a_token_that_begins_in_the_opener_carries_no_loss() -> None:
    tokenizer = train_tokenizer(["a\n\nb", "c\n\nd", "e\n\n"], vocabulary_size=320)
    tokenizer.chat_template = CHATML
    assert "\n\n" in [tokenizer.decode([number]) for number in tokenizer("\n\n")["input_ids"]]
    assert runs(tokenizer, encoded_by(tokenizer, dialogue("Who?", "\n\nMe."))) == [("\nMe.<|im_end|>", 1.0)]


def test_a_tokenizer_that_drops_white_space_learns_the_same_words() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "USER:", "ASSISTANT:", "Who?", "In", "a", "cave."]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    tokenizer.chat_template = PARTS
    assert runs(tokenizer, encoded_by(tokenizer, dialogue("Who?", "In a cave.", "Who?", "a"))) == [("In a cave.", 1.0), ("a", 1.0)]


def test_a_picture_parts_the_run_it_stands_in(tokenizer: Any) -> None:
    encoded = encoded_by(tokenizer, dialogue("Who <image>is it?", "Me.", images=1), loss_on="all")
    assert [text for text, _ in runs(tokenizer, encoded)] == ["Who ", "is it?<|end|>", "Me.<|end|>"]


def test_what_stands_around_a_pictures_token_carries_no_loss(tokenizer: Any) -> None:
    pictures = Pictures(mark="<|system|><image><pad>", token="<image>", fixed=4)
    encoded = encoded_by(tokenizer, dialogue("Who <image>is it?", "Me.", images=1), loss_on="all", pictures=pictures)
    assert [text for text, _ in runs(tokenizer, encoded)] == ["Who ", "is it?<|end|>", "Me.<|end|>"]


def test_what_the_template_gets_as_thinking_is_the_formats(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ 'yes' if enable_thinking else 'no' }}" + CHATML
    for thinking, word in ((True, "yes"), (False, "no")):
        text = Formatter(ChatFormat(tokenizer=tokenizer, thinking=thinking)).render(dialogue("Who?", "Me.")).text
        assert text.startswith(word)
        assert render_prompt(dialogue("Who?", "Me."), tokenizer, thinking=thinking).startswith(word)


def test_a_short_question_is_not_left_out_of_a_prompt_for_a_template_of_parts(tokenizer: Any) -> None:
    tokenizer.chat_template = PARTS
    assert render_prompt(dialogue("U"), tokenizer) == "USER: U ASSISTANT: "


@pytest.mark.parametrize("filtered", ["| upper", "| e", "| tojson", "[:5]", "| replace('\n', ' ')"])
def test_a_template_that_changes_texts_is_refused(tokenizer: Any, filtered: str) -> None:
    tokenizer.chat_template = CHATML.replace("message['content']", f"(message['content'] {filtered})")
    with pytest.raises(BadRecord) as caught:
        Formatter(ChatFormat(tokenizer=tokenizer)).render(dialogue("Who?", "Me."))
    assert caught.value.kind == "template_refused"


def test_a_template_that_writes_turns_in_another_order_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("in messages", "in messages[::-1]")
    with pytest.raises(ValueError, match="another order"):
        take_apart(("user", "assistant"), tokenizer)


def test_words_that_a_template_looks_for_are_known() -> None:
    template = "{% if 'think on' in text or x.endswith('stop') %}{{ '</think>' }}{% elif message['role'] == 'user' %}{{ '\n' }}{% endif %}"
    assert set(sought(template)) == {"think on", "stop", "</think>"}


def test_a_format_goes_through_a_pickle(tokenizer: Any) -> None:
    format = pickle.loads(pickle.dumps(ChatFormat(tokenizer=tokenizer, pictures=pictures_of(build_processor(tokenizer, patch_size=16)))))
    one = dialogue("Who?", "Me.")
    assert Formatter(format).render(one) == Formatter(ChatFormat(tokenizer=tokenizer)).render(one)


def test_ids_without_the_token_of_a_picture_are_an_error(tokenizer: Any) -> None:
    pictures = Pictures(mark="<photo>", token="<photo>", fixed=4)
    with pytest.raises(ValueError, match="0 image tokens '<photo>'"):
        encoded_by(tokenizer, dialogue("<image>Who?", "Me.", images=1), pictures=pictures)


def sized(family: str, tokenizer: Any) -> Pictures:
    """Pictures of a family whose tokens depend on their sizes."""
    import transformers as hf

    if family == "qwen":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>"]}, replace_extra_special_tokens=False)
        tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
        images = hf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=56 * 56)
        return pictures_of(hf.Qwen2_5_VLProcessor(images, tokenizer, hf.Qwen2VLVideoProcessor()))
    grids = [[32, 64], [64, 32], [64, 64]]
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids)
    return pictures_of(hf.LlavaNextProcessor(images, tokenizer, patch_size=16, vision_feature_select_strategy="default"))


@pytest.mark.parametrize("family", ["qwen", "llava_next"])
def test_counts_by_size_go_through_a_pickle(tokenizer: Any, family: str) -> None:
    pictures = sized(family, tokenizer)
    again = pickle.loads(pickle.dumps(pictures))
    sizes = [(56, 56), (90, 40)]
    assert pictures.needs_sizes
    assert again.tokens(sizes) == pictures.tokens(sizes) != pictures.tokens(sizes[::-1])


def test_a_size_that_the_processor_refuses_is_a_value_error(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        sized("qwen", tokenizer).tokens([(10, 4000)])


def test_sizes_of_a_prompts_pictures_are_read_where_they_matter(tokenizer: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 90)).save(tmp_path / "0.png")
    pictures = sized("qwen", tokenizer)
    one = replace(dialogue("<image>Who?", "Me.", images=1), images=(ImageSource(str(tmp_path / "0.png")),))
    ids = prompt_ids(one, tokenizer, pictures=pictures)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == pictures.tokens([(90, 40)])[0]
