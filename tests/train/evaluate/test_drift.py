"""The number-token measure: which tokens are numbers, a case computed by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import two_models

from data.conversation import Conversation, Turn
from model.build import load_pair
from train.evaluate.drift import is_number_token, number_token_ids, number_token_probability, unrelated_questions
from train.evaluate.tasks import load_suite


@pytest.mark.parametrize("token", ["7", "Ġ7", "▁7", "42", "Ġ3.5", ".5", "1st", "▁22nd", "five", "ĠFive", "▁sixteen", "Ġhundred", "ninety"])
def test_numerals_ordinals_decimals_and_number_words_are_number_tokens(token: str) -> None:
    assert is_number_token(token)


@pytest.mark.parametrize("token", ["", "Ġ", "▁", "a", "Ġfives", "first", "tenth", "5a", "1th3", ".", "-5", "ninet", "once", "Ġpair", "²"])
def test_other_tokens_are_not(token: str) -> None:
    assert not is_number_token(token)


def test_number_tokens_of_the_terrariums_tokenizer_are_its_digits_and_number_words() -> None:
    from data.terrarium.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["There are three circles, eleven stars or 12 dogs; the third one weighs 5."] * 3, vocabulary_size=400)
    words = {tokenizer.convert_ids_to_tokens(index).lstrip("Ġ") for index in number_token_ids(tokenizer)}
    assert set("0123456789") | {"three", "eleven"} <= words
    assert words <= set("0123456789") | {"three", "eleven", "one"}
    assert not {"third", "<pad>", "circles"} & words


class Tokenizer:
    """Four tokens, of which "5" and "Ġsix" are numbers; every prompt is one token long."""

    all_special_ids = (0,)
    chat_template = "in apply_chat_template"
    added_tokens_decoder: ClassVar[dict[int, str]] = {}

    def get_vocab(self) -> dict[str, int]:
        return {"</s>": 0, "red": 1, "5": 2, "Ġsix": 3}

    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool = False, **_: Any) -> str:
        text = "".join(f"<{message['role']}>{message['content']}</>" for message in messages)
        return text + "<assistant>" * add_generation_prompt

    def __call__(self, text: list[str], **_: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.ones(len(text), 1, dtype=torch.long), "attention_mask": torch.ones(len(text), 1, dtype=torch.long)}


class FixedLogits:
    """After the token red the distribution is (1, 5, 1, 1)/8, after any other (2, 2, 3, 1)/8."""

    training, device = True, "cpu"

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **_: Any) -> Any:
        assert not self.training
        table = torch.tensor([[2.0, 2, 3, 1], [1, 5, 1, 1], [2, 2, 3, 1], [2, 2, 3, 1]]).log() + 7.0  # softmax takes the 7 away
        return SimpleNamespace(logits=table[input_ids][:, -logits_to_keep:])


def conversation(text: str = "What?") -> Conversation:
    return Conversation(id="0", turns=(Turn(role="user", text=text), Turn(role="assistant", text="expected")))


def test_number_token_probability_of_a_case_computed_by_hand() -> None:
    # x = red. First y = (5, red, </s>): predicted after red, 5, red: 2/8, 4/8, 2/8 -> mean 1/3. Second y = (red): 2/8.
    model = FixedLogits()
    found = number_token_probability(model, Tokenizer(), [conversation(), conversation("Who?")], [[2, 1, 0], [1]])
    assert found == pytest.approx((1 / 3 + 1 / 4) / 2, abs=1e-6)
    assert model.training, "the model's mode is put back"


def test_batches_do_not_change_the_number_token_probability() -> None:
    prompts, continuations = [conversation("x" * n) for n in range(1, 6)], [[1], [2, 2, 2], [1, 0], [3, 1, 2, 0], [2]]
    values = [number_token_probability(FixedLogits(), Tokenizer(), prompts, continuations, batch_size=size) for size in (1, 2, 5)]
    assert values[0] is not None and math.isclose(values[0], values[1], rel_tol=1e-6) and math.isclose(values[0], values[2], rel_tol=1e-6)


def test_without_a_continuation_there_is_no_value() -> None:
    assert number_token_probability(FixedLogits(), Tokenizer(), [conversation()], [[]]) is None


def test_unrelated_questions_come_evenly_from_held_out_tasks_whose_answers_hold_no_digit(suite_path: Path) -> None:
    suite = load_suite(suite_path)
    assert unrelated_questions(suite, most=5) == [("colour", 0), ("facts", 0), ("colour", 1), ("facts", 1), ("colour", 2)]
    assert {name for name, _ in unrelated_questions(suite)} == {"colour", "facts"}


def seen_while_generating(model: Any, processor: Any, one: Conversation) -> tuple[list[int], float]:
    """The greedy answer's token ids, with the number tokens' mean probability as generating it showed them."""
    from transformers import GenerationConfig

    from data.chat import render_prompts
    from data.pictures import pictures_of
    from train.evaluate.generate import encode_batch

    prompts = render_prompts([one], processor.tokenizer, mark=pictures_of(processor).mark)
    inputs = encode_batch(processor, prompts, [one], model.device)
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    written = model.generate(**inputs, generation_config=settings)
    numbers = number_token_ids(processor.tokenizer)
    mean = torch.stack(written.logits)[:, 0].softmax(-1)[:, numbers].sum(-1).mean().item()
    return written.sequences[0, inputs["input_ids"].shape[1] :].tolist(), mean


def test_teacher_forcing_repeats_the_probabilities_of_the_greedy_run_itself(tiny: Any, suite_path: Path) -> None:
    one = load_suite(suite_path).tasks[1].questions[3].conversation
    ids, expected = seen_while_generating(*tiny, one)
    assert number_token_probability(*tiny, [one], [ids]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["llava-clip-llama", "qwen2_5_vl"])
def test_a_siamese_models_gate_sees_the_prompts_it_saw_in_the_greedy_run(family: str, family_folder: Any, suite_path: Path) -> None:
    model, processor = load_pair(family_folder(family))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # with the small weights of its start all tokens are about as probable
    two_models.two_models(model, "lora")
    colour, facts = (load_suite(suite_path).tasks[task].questions[3].conversation for task in (1, 2))
    runs = [seen_while_generating(model, processor, one) for one in (colour, facts)]
    found = [number_token_probability(model, processor, [one], [ids]) for one, (ids, _) in zip((colour, facts), runs, strict=True)]
    assert found == pytest.approx([expected for _, expected in runs], abs=1e-5)
