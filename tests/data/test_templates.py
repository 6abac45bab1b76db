"""Text, ids, loss of random dialogues against what the templates of the supported families write themselves."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.chat import ChatFormat, Formatter, control_tokens
from data.conversation import IMAGE_MARK, Conversation, Turn
from data.images import ImageSource
from data.pictures import Pictures
from data.problems import BadRecord
from data.template import DATE
from data.terrarium.tokenizer import CHAT_TEMPLATE

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
OWN = {"terrarium": CHAT_TEMPLATE, "chatml": CHATML, "llama2": LLAMA2, "parts": PARTS}

QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
IMAGE_TOKENS = 3
EXAMPLES = 25


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known of a template from reading it.

    Attributes:
        answer: Matches an assistant's turn; its group is what carries loss.
        in_parts: Whether contents are lists of parts.
        mark: What stands for a picture; None: the template shows none.
        token: The token of pictures.
    """

    answer: str
    in_parts: bool = False
    mark: str | None = None
    token: str = IMAGE_MARK


_CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)"
_LLAMA3 = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"
_QWEN3 = r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n(?=(?:(?!<\|im_end\|>).)*<\|im_end\|>\n\Z))?(.*?<\|im_end\|>)"
_GEMMA = r"<start_of_turn>model\n(.*?<end_of_turn>)"
_PHI = r"<\|assistant\|>\n(.*?<\|end\|>)"
_UTTERANCE = r"(?:\A<\|[a-z_]+\|>|(?<=<end_of_utterance>)\n)Assistant:( .*?<end_of_utterance>)"

FAMILIES = {
    "terrarium": Family(answer=r"<\|assistant\|>(.*?<\|end\|>)", mark=IMAGE_MARK),
    "chatml": Family(answer=_CHATML, mark=IMAGE_MARK),
    "llama2": Family(answer=r"(?:\A|(?<=</s>)| \[/INST\])( .*? </s>)"),
    "parts": Family(answer=r"ASSISTANT:( .*?)(?= (?:USER|SYSTEM|ASSISTANT): | \Z)", in_parts=True),
    "llama3": Family(answer=_LLAMA3, mark=IMAGE_MARK),
    "llama3_1": Family(answer=_LLAMA3),
    "llama3_2": Family(answer=_LLAMA3),
    "qwen2_5": Family(answer=_CHATML, mark=IMAGE_MARK),
    "qwen2_5_vl": Family(answer=_CHATML, mark=QWEN_MARK, token="<|image_pad|>"),
    "qwen3": Family(answer=_QWEN3, mark=IMAGE_MARK),
    "qwen3_instruct_2507": Family(answer=_CHATML),
    "qwen3_vl": Family(answer=_CHATML, mark=QWEN_MARK, token="<|image_pad|>"),
    "qwen3_5_nothink": Family(answer=_QWEN3),
    "llava_next": Family(answer=r"(?:\A|(?<=</s>)(?=  )| \[/INST\]|<</SYS>>\n\n)( .*?</s>)", in_parts=True, mark=IMAGE_MARK),
    "gemma": Family(answer=_GEMMA),
    "gemma3": Family(answer=_GEMMA),
    "phi3": Family(answer=_PHI),
    "phi3_5": Family(answer=_PHI),
    "glm4moe": Family(answer=r"<\|assistant\|>\n<think></think>\n(.*?)(?=<\|user\|>|<\|assistant\|>|<\|system\|>|\Z)"),
    "smolvlm": Family(answer=_UTTERANCE, in_parts=True),
    "idefics3": Family(answer=_UTTERANCE, in_parts=True),
}
CONTROL = re.compile(r"<\|[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|<image>|</?s>|\[gMASK\]|<sop>")
# Texts that templates treat in their own way; what they do with any other text must be known.
ODD = re.compile(r"</?think>|/nothink|</?tool_response>")


def template_of(name: str) -> str:
    if name in OWN:
        return OWN[name]
    return (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")


def trl_templates() -> Path:
    """The folder with the templates of many models; the package itself is not imported."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.submodule_search_locations, "trl, whose package holds the templates, is not installed: make install"
    return Path(found.submodule_search_locations[0]) / "chat_templates"


def byte_level() -> Any:
    """A small byte-level vocabulary: it covers every text; no token holds a line's end beside something else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["user assistant system what where the answer is a cave in the red square"], trainer)
    return tokenizer


def formatter_of(name: str, **choices: Any) -> Formatter:
    from transformers import PreTrainedTokenizerFast

    family, template = FAMILIES[name], template_of(name)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        bos_token="<s>",
        eos_token="<|endoftext|>" if name.startswith("phi") else "</s>",
        additional_special_tokens=sorted({*CONTROL.findall(template), "<|user|>", "<|assistant|>", "<|system|>", family.token}),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    pictures = Pictures(mark=family.mark, token=family.token, fixed=IMAGE_TOKENS) if family.mark else Pictures()
    return Formatter(ChatFormat(tokenizer=tokenizer, pictures=pictures, **choices))


FORMATTERS: dict[str, Formatter] = {}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    FORMATTERS.setdefault(request.param, formatter_of(request.param))
    return str(request.param)


def tokenizer_of(name: str) -> Any:
    return FORMATTERS[name]._format.tokenizer


BITS = [
    *("a", "Wh", "the cave", "é", "日本", "🦜", "7", "&", "\\n", "'", '"', "<", "<b>", "</p>", "{{", "%}", "\ue000"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\u00a0", "\u2028"),
    *("user", "assistant", "\nassistant\n", "[INST]", "system", "/nothink", "<think>", "</think>"),
]
WHOLE = ["", " ", "\n", "<think>\nhm\n</think>\n\nMe.", "<tool_response>a</tool_response>", "Why?/nothink"]
WHOLE += ["a<|im_end|>", "a</s>b", "<|user|>"]
TEXTS = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(BITS), max_size=6).map("".join), st.sampled_from(WHOLE))
PLAIN = st.lists(st.sampled_from(["a", "Wh", "the", "é", "7", " ", "\n", "?", "🦜"]), max_size=6).map(lambda bits: "x" + "".join(bits))


@st.composite
def dialogues(draw: st.DrawFn, *, pictures: bool, wild: bool) -> Conversation:
    texts = TEXTS if wild else PLAIN
    rounds = draw(st.integers(1, 3))
    roles: list[Any] = ["system"] * draw(st.integers(0, 1)) + ["user", "assistant"] * rounds
    if wild and draw(st.integers(0, 4)) == 0:
        roles = draw(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=4))
    turns, images = [], 0
    for role in roles:
        text = draw(texts)
        if pictures and role == "user":
            shown = draw(st.sampled_from([0, 0, 1, 1, 2]))
            images += shown
            text = draw(st.sampled_from([f"{IMAGE_MARK}\n" * shown + text, text + IMAGE_MARK * shown, f"a {IMAGE_MARK}" * shown + text]))
        turns.append(Turn(role=role, text=text))
    return Conversation(id="0", turns=tuple(turns), images=tuple(ImageSource(f"{number}.png") for number in range(images)))


def contents_of(name: str, conversation: Conversation) -> list[Any]:
    """Messages as one would give them to the template oneself: pictures as parts of their own where the template can place them."""
    family, found = FAMILIES[name], []
    for turn in conversation.turns:
        content: Any = turn.text
        if conversation.images and family.mark != IMAGE_MARK:
            texts = [[{"type": "text", "text": text}] if text else [] for text in turn.text.split(IMAGE_MARK)]
            content = texts[0] + [part for text in texts[1:] for part in [{"type": "image"}, *text]]
            content = content if IMAGE_MARK in turn.text else turn.text
        elif family.in_parts:
            content = [{"type": "text", "text": turn.text}]
        found.append({"role": turn.role, "content": content})
    return found


def theirs(name: str, conversation: Conversation) -> str:
    messages = contents_of(name, conversation)
    return str(tokenizer_of(name).apply_chat_template(messages, tokenize=False, enable_thinking=False, date_string=DATE))


def refuses(name: str, conversation: Conversation) -> bool:
    """Whether the template raises for these texts, or for any in one of the dialogue's beginnings, or leaves a turn out altogether."""
    marked = tuple(Turn(role=turn.role, text=f"text{number}text") for number, turn in enumerate(conversation.turns))
    try:
        theirs(name, conversation)
        texts = [theirs(name, replace(conversation, turns=marked[: number + 1], images=())) for number in range(len(marked))]
    except Exception:  # noqa: BLE001 - templates raise what they like
        return True
    return not all(turn.text in texts[-1] for turn in marked)


def check_refusal(name: str, conversation: Conversation, problem: BadRecord) -> None:
    """A record is refused for what it is."""
    bare = [turn.text.replace(IMAGE_MARK, "\n") if conversation.images else turn.text for turn in conversation.turns]
    reserved = any(token in text for text in bare for token in control_tokens(tokenizer_of(name)))
    if problem.kind == "template_refused":
        assert refuses(name, conversation)
    elif problem.kind == "reserved_token":
        assert reserved
    else:
        assert problem.kind == "text_rewritten"
        assert any(ODD.search(text) or not text.strip() for text in bare)


def spans_of(name: str, text: str) -> list[tuple[int, int]]:
    """Characters of the answers; what touches is one run."""
    found: list[tuple[int, int]] = []
    for match in re.finditer(FAMILIES[name].answer, text, re.DOTALL):
        first, last = match.span(1)
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, last))
    return [(first, last) for first, last in found if first < last]


def check(name: str, conversation: Conversation) -> None:
    formatter, family, tokenizer = FORMATTERS[name], FAMILIES[name], tokenizer_of(name)
    try:
        rendered = formatter.render(conversation)
    except BadRecord as problem:
        check_refusal(name, conversation, problem)
        return
    text = theirs(name, conversation)
    assert rendered.text == text
    counts = [IMAGE_TOKENS] * len(conversation.images)
    encoded = next(iter(formatter.tokenise([rendered], [counts])))
    whole = tokenizer(text.replace(family.token, family.token * IMAGE_TOKENS) if counts else text, add_special_tokens=False)
    assert encoded.input_ids.tolist() == whole["input_ids"]
    expected = spans_of(name, text)
    assert len(re.findall(family.answer, text, re.DOTALL)) == sum(turn.role == "assistant" for turn in conversation.turns)
    assert [tokenizer.decode(encoded.input_ids[first:last]) for first, last in encoded.spans] == [
        text[first:last] for first, last in expected
    ]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [any(first <= start < last for first, last in expected) for start, _ in offsets]
    assert encoded.labels_mask[~is_picture(encoded.input_ids, name)].tolist() == [
        kept for kept, (first, last) in zip(inside, offsets, strict=True) if not counts or text[first:last] != family.token
    ]


def is_picture(ids: np.ndarray, name: str) -> np.ndarray:
    shown = FAMILIES[name].mark is not None
    return (ids == tokenizer_of(name).convert_tokens_to_ids(FAMILIES[name].token)) & shown


FEW = settings(derandomize=True, deadline=None, max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))


@FEW
@given(data=st.data())
def test_text_ids_loss_are_those_of_the_template_or_the_record_is_refused(name: str, data: st.DataObject) -> None:
    check(name, data.draw(dialogues(pictures=FAMILIES[name].mark is not None, wild=True)))


@FEW
@given(data=st.data())
def test_plain_dialogues_are_never_refused_for_their_texts(name: str, data: st.DataObject) -> None:
    conversation = data.draw(dialogues(pictures=FAMILIES[name].mark is not None, wild=False))
    if not refuses(name, conversation):
        FORMATTERS[name].render(conversation)


def talk(*texts: str, system: str | None = None) -> Conversation:
    roles: Sequence[Any] = ("user", "assistant")
    turns = tuple(Turn(role=roles[number % 2], text=text) for number, text in enumerate(texts))
    return Conversation(id="0", turns=(*([Turn(role="system", text=system)] if system else []), *turns))


def test_every_template_takes_a_plain_dialogue(name: str) -> None:
    check(name, talk("Why?", "So it is.", "Where?", "In a cave."))
    assert FORMATTERS[name].render(talk("Why?", "So it is.", "Where?", "In a cave.")).spans


@pytest.mark.parametrize("name", [one for one in FAMILIES if one not in OWN])
def test_trl_marks_the_same_answers_where_it_leaves_the_text_alone(name: str) -> None:
    formatter = FORMATTERS.setdefault(name, formatter_of(name))
    path = Path(trl_templates(), f"{name}_training.jinja")
    one, tokenizer = talk("Why?", "So it is.", "Where?", "In a cave."), tokenizer_of(name)
    rendered = formatter.render(one)
    choices = {"chat_template": path.read_text(encoding="utf-8") if path.exists() else None, "enable_thinking": False, "date_string": DATE}
    if not path.exists() or tokenizer.apply_chat_template(contents_of(name, one), tokenize=False, **choices) != rendered.text:
        assert name in {"llama3_1", "llama3_2", "qwen3", "qwen3_5_nothink", "glm4moe"}
        return
    marked = tokenizer.apply_chat_template(contents_of(name, one), return_dict=True, return_assistant_tokens_mask=True, **choices)
    runs = np.flatnonzero(np.diff(marked["assistant_masks"], prepend=0, append=0)).reshape(-1, 2)
    answers = [tokenizer.decode(marked["input_ids"][first:last]) for first, last in runs]
    ours = [rendered.text[first:last] for first, last, _ in rendered.spans]
    # White space around a turn's last token, or a text's end, is nothing that a model has to say.
    assert [answer.removesuffix("<|endoftext|>").strip() for answer in answers] == [answer.strip() for answer in ours]


def test_a_date_that_a_template_writes_does_not_depend_on_the_day() -> None:
    formatter = formatter_of("llama3_2")
    assert f"Today Date: {DATE}\n" in formatter.render(talk("Why?", "So it is.")).text


def test_a_thought_that_the_template_moves_is_caught() -> None:
    with pytest.raises(BadRecord) as caught:
        formatter_of("qwen3").render(talk("Why?", "<think>\nhm\n</think>\n\nSo it is."))
    assert caught.value.kind == "text_rewritten"


def test_a_thought_that_the_template_leaves_alone_is_learned() -> None:
    rendered = formatter_of("qwen3_instruct_2507").render(talk("Why?", "<think>hm</think>So it is."))
    assert [rendered.text[first:last] for first, last, _ in rendered.spans] == ["<think>hm</think>So it is.<|im_end|>"]


def test_an_empty_thought_stands_before_the_last_answer_without_loss() -> None:
    rendered = formatter_of("qwen3").render(talk("Why?", "So it is.", "Where?", "In a cave."))
    assert rendered.text.count("<think>") == 1
    assert rendered.text[: rendered.spans[-1][0]].endswith("<think>\n\n</think>\n\n")


def test_the_line_end_that_a_template_strips_from_an_answer_carries_no_loss() -> None:
    rendered = formatter_of("qwen3").render(talk("Why?", "\n So it is. "))
    assert [rendered.text[first:last] for first, last, _ in rendered.spans] == [" So it is. <|im_end|>"]


def test_a_system_prompt_of_the_templates_own_gives_way_to_the_records() -> None:
    formatter = formatter_of("qwen2_5")
    assert "You are Qwen" in formatter.render(talk("Why?", "So it is.")).text
    assert "You are Qwen" not in formatter.render(talk("Why?", "So it is.", system="Be short.")).text


def test_a_control_token_is_not_cut_where_two_of_them_begin_alike() -> None:
    rendered = formatter_of("phi3").render(talk("Why?", "So it is.", "Where?", "In a cave."))
    assert [rendered.text[first:last] for first, last, _ in rendered.spans] == ["So it is.<|end|>", "In a cave.<|end|>"]
