"""Teachers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.adapters import AdapterConfig, attach
from train.config import LossConfig
from train.distill import FrozenCopy, SameWeights, teachers
from train.head import LossHead
from train.losses import Rows

LWF = LossConfig(kind="lwf")
IDS = torch.tensor([[1, 5, 9, 7, 30, 12]])


@pytest.fixture
def model(tiny: tuple[Any, Any]) -> Any:
    return tiny[0]


def every_row() -> Rows:
    positions = torch.arange(IDS.shape[1])
    empty = torch.zeros_like(positions)
    return Rows(batch=empty, position=positions, labels=empty, weights=empty.float(), text_only=empty.bool(), sources=empty)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits[0]


@torch.no_grad()
def train_a_little(model: Any) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn_like(parameter)


def said(teacher: Any, model: Any, head: LossHead) -> torch.Tensor:
    with head.installed(), torch.no_grad():
        return teacher.head(head.weights()).logits(teacher.hidden(model, {"input_ids": IDS}, every_row()))


def teacher_of(model: Any, head: LossHead, *, partitioned: bool = False) -> Any:
    return teachers(model, head, [LWF], load=lambda name: pytest.fail(name), partitioned=partitioned)[None]


def lora(model: Any) -> None:
    attach(model, AdapterConfig(kind="lora", rank=4), "llm_blocks+projector", steps=1, seed=0)


def everything(model: Any) -> None:
    model.requires_grad_(True)


@pytest.mark.parametrize("trains", [everything, lora])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_teacher_says_what_the_model_said_before(model: Any, trains: Callable[[Any], None], partitioned: bool) -> None:
    before = logits(model)
    trains(model)
    head = LossHead(model)
    teacher = teacher_of(model, head, partitioned=partitioned)
    train_a_little(model)
    assert (logits(model) - before).abs().max() > 1e-3
    assert torch.allclose(said(teacher, model, head), before, atol=1e-6)


@pytest.mark.parametrize("trains", [everything, lora])
def test_asking_the_teacher_leaves_the_model_alone(model: Any, trains: Callable[[Any], None]) -> None:
    trains(model)
    head = LossHead(model)
    teacher = teacher_of(model, head)
    train_a_little(model)
    model.train()
    before = [(name, one.clone(), one.requires_grad) for name, one in model.named_parameters()]
    said(teacher, model, head)
    assert model.training
    for (name, value, trained), (other, now) in zip(before, model.named_parameters(), strict=True):
        assert (name, trained) == (other, now.requires_grad)
        assert torch.equal(value, now)


def test_adapters_alone_need_no_copy(model: Any) -> None:
    attach(model, AdapterConfig(kind="lora", rank=4), "llm_blocks", steps=1, seed=0)
    teacher = teacher_of(model, LossHead(model), partitioned=True)
    assert isinstance(teacher, SameWeights)
    assert teacher.everywhere


def test_whole_parameters_that_are_partitioned_need_a_copy(model: Any) -> None:
    assert isinstance(teacher_of(model, LossHead(model), partitioned=True), FrozenCopy)


def test_one_teacher_serves_all_terms_that_name_it(model: Any) -> None:
    terms = [LWF, LossConfig(kind="kl_to_base"), LossConfig(kind="cross_entropy")]
    assert list(teachers(model, LossHead(model), terms, load=lambda name: pytest.fail(name), partitioned=False)) == [None]


def test_a_copy_in_bf16_sees_far_positions_as_the_model_does(model: Any) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
    torch.manual_seed(0)
    student = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, max_position_embeddings=2048, initializer_range=0.3)).eval()
    teacher = FrozenCopy(copy.deepcopy(student))
    for parameter in student.parameters():  # as DeepSpeed does it
        parameter.data = parameter.data.bfloat16()
    ids = torch.randint(0, 64, (1, 2048))
    rows = Rows(**dict.fromkeys(vars(every_row()), torch.zeros(2048, dtype=torch.long)) | {"position": torch.arange(2048)})
    with torch.no_grad():
        hidden = teacher.hidden(student, {"input_ids": ids}, rows)
        own = student.model(ids).last_hidden_state[0]
    assert torch.equal(hidden, own)
