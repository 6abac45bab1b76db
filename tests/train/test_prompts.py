"""Which tokens the gate is asked with, in every layout of a batch; what base and twin make of these together."""

import copy
from typing import Any

import pytest
import torch
import two_models
from packed_rows import text_model

from data.collate import Collator
from data.dataset import IGNORED
from model.attention import attention_inputs, use
from train.head import LossHead
from train.losses import labelled_rows


class Tokenizer:
    pad_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1


class NoPictures:
    token, types_tokens = "<image>", False

    def inputs(self, images: Any) -> dict[str, Any]:
        return {}


def sample(learned: str) -> dict[str, Any]:
    """A dialogue, a letter a token: "." is shown, "x" carries loss."""
    ids = torch.arange(2, 2 + len(learned))
    carries = torch.tensor([letter == "x" for letter in learned])
    return {
        "input_ids": ids,
        "labels": torch.where(carries, ids, IGNORED),
        "weights": carries.float(),
        "images": [],
        "source": 0,
    }


def prompts(batch: dict[str, Any]) -> list[tuple[int, list[int]]]:
    """Of each token that carries loss, in order: its row, the places of its prompt there."""
    rows = labelled_rows(batch, with_prompts=True)
    assert rows.prompts is not None
    assert torch.equal(rows.prompts.row[rows.prompts.of], rows.batch)
    places = [(int(row), tokens.nonzero()[:, 0].tolist()) for row, tokens in zip(rows.prompts.row, rows.prompts.tokens, strict=True)]
    return [places[int(number)] for number in rows.prompts.of]


def collated(rows: list[list[dict[str, Any]]], layout: Any = "padded") -> dict[str, Any]:
    return Collator(Tokenizer(), NoPictures(), layout)(rows)


def test_the_prompt_is_everything_before_the_answer() -> None:
    assert prompts(collated([[sample("...xx")]])) == [(0, [0, 1, 2])] * 2


def test_the_second_answer_is_asked_with_the_first_one_too() -> None:
    assert prompts(collated([[sample("..xx.x")]])) == [(0, [0, 1]), (0, [0, 1]), (0, [0, 1, 2, 3, 4])]


def test_rows_of_a_batch_have_prompts_of_their_own() -> None:
    assert prompts(collated([[sample("..x")], [sample("....x")]])) == [(0, [0, 1]), (1, [0, 1, 2, 3])]


def test_packed_samples_are_not_asked_with_one_another() -> None:
    assert prompts(collated([[sample("..x"), sample("...xx")]], "packed")) == [(0, [0, 1]), (0, [3, 4, 5]), (0, [3, 4, 5])]


def test_flat_samples_are_not_asked_with_one_another() -> None:
    assert prompts(collated([[sample("..x")], [sample("...xx")]], "flat")) == [(0, [0, 1]), (0, [3, 4, 5]), (0, [3, 4, 5])]


def test_a_text_of_which_all_carries_loss_is_asked_with_its_first_token() -> None:
    assert prompts(collated([[sample(".xxxxxx")]])) == [(0, [0])] * 6


TREE = sample("..xxxx.x") | {
    # Two answers to one question; behind the second a question and its answer.
    "positions": torch.tensor([0, 1, 2, 3, 2, 3, 4, 5]),
    "visible_until": torch.tensor([8, 8, 4, 4, 8, 8, 8, 8], dtype=torch.int32),
    "predictors": torch.tensor([0, 0, 1, 2, 1, 4, 5, 6]),
}


def test_a_node_of_a_tree_is_asked_with_the_path_to_it() -> None:
    found = prompts(collated([[sample("..x"), TREE]], "packed"))
    question, second = [3, 4], [3, 4, 7, 8, 9]
    assert found == [(0, [0, 1]), (0, question), (0, question), (0, question), (0, question), (0, second)]


def test_a_batch_without_loss_has_no_prompts() -> None:
    assert prompts(collated([[sample("...")]])) == []


def test_prompts_are_left_out_where_nobody_asks() -> None:
    assert labelled_rows(collated([[sample("..x")]])).prompts is None


def mixed(model: Any, batch: dict[str, Any], gradient: bool = False) -> torch.Tensor:
    """What base and twin make together of the tokens that carry loss, [tokens, hidden]."""
    rows, head = labelled_rows(batch, with_prompts=True), LossHead(model)
    told = {"labels", "loss_weights", "predictors", "sources", "text_only"}
    inputs = attention_inputs(model, {name: value for name, value in batch.items() if name not in told})
    with torch.set_grad_enabled(gradient), head.installed(), head.asked(rows):
        found: torch.Tensor = model(**inputs, use_cache=False).logits
    return found


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    made = copy.deepcopy(text_model("llama"))
    two_models.two_models(made, "lora")
    use(made, request.param)
    return made


def test_what_a_loss_sees_is_the_papers_equation(model: Any) -> None:
    batch = collated([[sample("...xx")]])
    siamese, ids = model.siamese, batch["input_ids"]
    states = []
    for whose in ("base", "tuned"):
        with siamese.alone(whose), torch.no_grad():
            states.append(model.model(input_ids=ids, use_cache=False).last_hidden_state[0])
    base, tuned = states
    query = [one[:3].mean(dim=0).expand(2, -1) for one in states]
    gate = torch.sigmoid(torch.cat([query[0], base[2:4], tuned[2:4], query[1]], dim=1) @ siamese.gate.w_a @ siamese.gate.w_b)
    torch.testing.assert_close(mixed(model, batch), gate * base[2:4] + (1 - gate) * tuned[2:4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_packed_samples_are_mixed_as_padded_ones_are(model: Any, gradient: bool) -> None:
    samples = [sample("...xx"), sample("..x.xxx"), sample(".....x")]
    apart, packed = mixed(model, collated([[one] for one in samples]), gradient), mixed(model, collated([samples], "packed"), gradient)
    torch.testing.assert_close(packed, apart, rtol=0, atol=3e-5)


def test_rows_that_cannot_be_doubled_go_one_after_the_other() -> None:
    model = copy.deepcopy(text_model("llama"))
    two_models.two_models(model, "lora")
    samples = [sample("...xx"), sample("..x.xxx")]
    expected = mixed(model, collated([samples], "packed"))
    use(model, "flex_attention")
    torch.testing.assert_close(mixed(model, collated([samples], "packed")), expected, rtol=0, atol=3e-5)


def test_a_tree_is_mixed_as_its_paths_are(model: Any) -> None:
    def path(places: list[int], learned: str) -> dict[str, Any]:
        ids = TREE["input_ids"][places]
        return sample(learned) | {"input_ids": ids, "labels": torch.where(torch.tensor([one == "x" for one in learned]), ids, IGNORED)}

    joined = mixed(model, collated([[sample("...x"), TREE]], "packed"))[1:]
    apart = mixed(model, collated([[path([0, 1, 2, 3], "..xx")], [path([0, 1, 4, 5, 6, 7], "..xx.x")]]))
    torch.testing.assert_close(joined, apart, rtol=0, atol=1e-5)


def test_a_wrong_prompt_would_show(model: Any) -> None:
    one, other = (mixed(model, collated([[sample(learned)]]))[-1] for learned in ("...xx", "....x"))
    assert float((one - other).abs().max()) > 1e-3


def test_the_base_alone_needs_no_prompts(model: Any) -> None:
    batch = collated([[sample("...xx")]])
    with model.siamese.alone("base"):
        found = mixed(model, batch)
        expected = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[0, 2:4]
    assert torch.equal(found, expected)


def test_rows_for_the_gate_alone_leave_the_twin_a_gradient_of_zero(model: Any) -> None:
    batch = collated([[sample("...xx")]])
    rows = labelled_rows(batch, with_prompts=True)
    for gate_only, moves in (((), True), ((0,), False)):
        model.zero_grad()
        head = LossHead(model, gate_only)
        with head.installed(), head.asked(rows):
            model(input_ids=batch["input_ids"], use_cache=False).logits.square().sum().backward()
        adapters = [one.grad for name, one in model.named_parameters() if "lora_B" in name]
        assert all(one is not None for one in adapters)
        assert any(one.any() for one in adapters) is moves
        assert model.siamese.gate.w_a.grad.any()
