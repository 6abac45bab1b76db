"""Tiny models of every family with samples, packed into one row or alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional

from data.chat import encode
from data.conversation import Conversation, Turn
from data.images import ImageSource, load_image
from data.pictures import pictures_of
from model.attention import attention_inputs
from model.build import load_pair

FAMILIES = ("llava-clip-llama", "llava-siglip-qwen2", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "llama", "qwen2")
MODES = ("training", "checkpointing", "evaluation")
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,  # 16 a head, the least that flex takes on a GPU
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample: its tokens int64 [tokens], which of them are learned, the pictures' arrays."""

    ids: torch.Tensor
    learned: torch.Tensor
    images: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model with samples for it: text alone, one picture, several pictures of several sizes."""

    model: Any
    processor: Any
    samples: tuple[Sample, ...]


def text_model(family: str) -> Any:
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(kind(**TEXT)).eval()


def text_samples(lengths: Sequence[int] = (9, 14, 5)) -> tuple[Sample, ...]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, TEXT["vocab_size"], (length,), generator=generator) for length in lengths]
    return tuple(Sample(ids=ids, learned=torch.arange(len(ids)) > 1) for ids in drawn)


def pictured_samples(processor: Any, folder: Path) -> tuple[Sample, ...]:
    from PIL import Image

    paths = []
    for number, size in enumerate([(56, 40), (40, 64), (64, 64)]):
        paths.append(folder / f"{number}.png")
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").resize(size).save(paths[-1])
    asked = [("What is two plus five?", ()), ("<image>\nWhat colour is it?", paths[:1]), ("<image> or\n<image>?", paths[1:])]
    samples, pictures = [], pictures_of(processor)
    for number, (question, shown) in enumerate(asked):
        turns = (Turn(role="user", text=question), Turn(role="assistant", text="The square is blue."))
        one = Conversation(id=str(number), turns=turns, images=tuple(ImageSource(str(path)) for path in shown))
        encoded = encode(one, processor.tokenizer, pictures=pictures)
        samples.append(
            Sample(
                ids=torch.from_numpy(encoded.input_ids).long(),
                learned=torch.from_numpy(encoded.labels_mask),
                images=tuple(load_image(path) for path in shown),
            )
        )
    return (samples[1], samples[0], samples[2])


def make_case(family: str, folder_of: Callable[[str], Path], pictures: Path) -> Case:
    """A family's model with its samples; pictures are written to a folder."""
    if family in ("llama", "qwen2"):
        return Case(model=text_model(family), processor=None, samples=text_samples())
    model, processor = load_pair(folder_of(family))
    _widen(model)
    return Case(model=model, processor=processor, samples=pictured_samples(processor, pictures))


@torch.no_grad()
def _widen(model: Any) -> None:
    """Larger weights in the language model: at its small start attention is nearly even, so that a leak would hardly show."""
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.ndim == 2:
            parameter *= 8


def pictured(case: Case, samples: Sequence[Sample], ids: torch.Tensor) -> dict[str, Any]:
    """What stands beside the tokens of a batch, as the collator makes it."""
    if case.processor is None:
        return {}
    pictures = pictures_of(case.processor)
    inputs = pictures.inputs([list(sample.images) for sample in samples])
    if pictures.types_tokens:
        inputs["mm_token_type_ids"] = (ids == case.processor.tokenizer.convert_tokens_to_ids(pictures.token)).int()
    return inputs


def packed(case: Case, samples: Sequence[Sample], padding: int = 3) -> dict[str, Any]:
    """Samples in one row, padding behind them, in the collator's form."""
    lengths = torch.tensor([*(len(sample.ids) for sample in samples), padding])
    ids = torch.cat([*(sample.ids for sample in samples), torch.zeros(padding, dtype=torch.int64)])[None]
    ends = lengths.cumsum(0).repeat_interleave(lengths).int()[None]
    positions = torch.cat([torch.arange(int(length)) for length in lengths])[None]
    return {"input_ids": ids, "position_ids": positions, "visible_until": ends} | pictured(case, samples, ids)


def flat(case: Case, samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples in one row with their bounds, in the form that reaches a device."""
    batch = packed(case, samples, padding=0)
    del batch["visible_until"]
    lengths = torch.tensor([len(sample.ids) for sample in samples], dtype=torch.int32)
    bounds = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return batch | {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds.clone(), "max_length_q": longest, "max_length_k": longest}


def forward(case: Case, batch: dict[str, Any]) -> torch.Tensor:
    return case.model(**attention_inputs(case.model, batch), use_cache=False).logits[0]


def alone(case: Case, sample: Sample) -> torch.Tensor:
    """Logits [tokens, words] of a sample by itself, by nothing but transformers."""
    ids = sample.ids[None]
    return case.model(input_ids=ids, **pictured(case, [sample], ids), use_cache=False).logits[0]


def loss_of(logits: torch.Tensor, sample: Sample) -> torch.Tensor:
    keep = sample.learned[1:]
    return functional.cross_entropy(logits[:-1][keep], sample.ids[1:][keep], reduction="sum")


def gradients(case: Case, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = {name: parameter for name, parameter in case.model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() <= 2e-5 * expected[name].abs().max() + 1e-6, name


@contextmanager
def in_mode(case: Case, mode: str) -> Iterator[Case]:
    """The case with its model in one of `MODES`; afterwards in evaluation."""
    case.model.train(mode != "evaluation")
    if mode == "checkpointing":
        case.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    yield case
    case.model.gradient_checkpointing_disable()
    case.model.eval()


def cases(families: Sequence[str], names: Sequence[str], modes: Sequence[str] = MODES) -> Any:
    found = [(family, name, mode) for family in families for name in names for mode in modes]
    return pytest.mark.parametrize("case", found, indirect=True, ids=["-".join(one) for one in found])
