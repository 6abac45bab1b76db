"""Packed samples, and dialogues of a tree, in one row: the same numbers as each alone."""

from collections.abc import Callable, Iterator, Sequence
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
from model import varlen
from model.attention import attention_inputs, mask, use
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


@pytest.fixture(scope="module")
def case_of(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """Gives a family's case with its model switched to a kernel; each model is made once."""
    made: dict[str, Case] = {}

    def case(family: str, name: str) -> Case:
        if family not in made and family in ("llama", "qwen2"):
            made[family] = Case(model=text_model(family), processor=None, samples=text_samples())
        elif family not in made:
            model, processor = load_pair(family_folder(family))
            _widen(model)
            samples = pictured_samples(processor, tmp_path_factory.mktemp("pictures"))
            made[family] = Case(model=model, processor=processor, samples=samples)
        use(made[family].model, name)
        return made[family]

    return case


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


@pytest.fixture
def case(request: pytest.FixtureRequest, case_of: Callable[[str, str], Case]) -> Iterator[Case]:
    """The case of (family, kernel, mode)."""
    family, name, mode = request.param
    case = case_of(family, name)
    case.model.train(mode != "evaluation")
    if mode == "checkpointing":
        case.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    yield case
    case.model.gradient_checkpointing_disable()
    case.model.eval()


def cases(families: Sequence[str], names: Sequence[str], modes: Sequence[str] = MODES) -> Any:
    found = [(family, name, mode) for family in families for name in names for mode in modes]
    return pytest.mark.parametrize("case", found, indirect=True, ids=["-".join(one) for one in found])


@cases(FAMILIES, ("eager", "sdpa"), ("evaluation",))
def test_packed_logits_are_those_of_separate_samples(case: Case) -> None:
    with torch.no_grad():
        together = forward(case, packed(case, case.samples))
        separate = torch.cat([alone(case, sample) for sample in case.samples])
    assert (together[: len(separate)] - separate).abs().max() <= 1e-5 * separate.abs().max()


@cases(FAMILIES, ("sdpa",), ("evaluation",))
def test_packed_samples_stay_apart_with_a_cache(case: Case) -> None:
    batch = packed(case, case.samples)
    with torch.no_grad():
        cached = case.model(**attention_inputs(case.model, batch), use_cache=True).logits[0]
        assert torch.allclose(cached, forward(case, batch), rtol=1e-5, atol=1e-5)


@cases(FAMILIES, ("eager", "sdpa"), MODES)
def test_packed_losses_and_gradients_are_those_of_separate_samples(case: Case) -> None:
    logits = forward(case, packed(case, case.samples)).split([*(len(sample.ids) for sample in case.samples), 3])
    together = sum(loss_of(part, sample) for part, sample in zip(logits, case.samples, strict=False))
    separate = sum(loss_of(alone(case, sample), sample) for sample in case.samples)
    assert torch.allclose(together, separate, rtol=1e-5)
    assert_equal_gradients(gradients(case, together), gradients(case, separate))


@cases(FAMILIES, ("eager", "sdpa"))
def test_a_changed_token_leaves_other_samples_bit_identical(case: Case) -> None:
    batch = packed(case, case.samples)
    first = len(case.samples[0].ids)
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, first - 1] = (changed["input_ids"][0, first - 1] + 1) % 90
    with torch.no_grad():
        before, after = forward(case, batch), forward(case, changed)
    assert torch.equal(before[first:], after[first:])


@cases(FAMILIES, ("eager", "sdpa"), ("evaluation",))
def test_without_the_mask_samples_would_leak(case: Case) -> None:
    batch = attention_inputs(case.model, packed(case, case.samples))
    batch["attention_mask"] = mask(
        torch.full_like(batch["input_ids"], 10_000), case.model.get_decoder().config._attn_implementation, torch.float32
    )
    with torch.no_grad():
        leaking = case.model(**batch, use_cache=False).logits[0]
        separate = torch.cat([alone(case, sample) for sample in case.samples])
    assert (leaking[: len(separate)] - separate).abs().max() > 1e-3


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_of_packed_samples_are_their_own(case: Case) -> None:
    found = attention_inputs(case.model, packed(case, case.samples))["position_ids"][1:]
    for sample, part in zip(case.samples, found.split([*(len(sample.ids) for sample in case.samples), 3], dim=2), strict=False):
        ids = sample.ids[None]
        beside = {name: value for name, value in pictured(case, [sample], ids).items() if name != "pixel_values"}
        assert torch.equal(part, case.model.model.get_rope_index(ids, **beside)[0])


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_of_text_alone_are_plain(case: Case) -> None:
    batch = packed(case, [case.samples[1], case.samples[1]])
    assert torch.equal(attention_inputs(case.model, batch)["position_ids"], batch["position_ids"].expand(4, 1, -1))


@cases(("qwen2_5_vl", "qwen3_vl"), ("sdpa",), ("evaluation",))
def test_multimodal_positions_count_pictures_over_all_rows(case: Case) -> None:
    rows = [packed(case, case.samples, padding=0), packed(case, case.samples[::-1], padding=0)]
    names = ("input_ids", "position_ids", "visible_until", "mm_token_type_ids")
    both = {name: torch.cat([row[name] for row in rows]) for name in names}
    both["image_grid_thw"] = torch.cat([row["image_grid_thw"] for row in rows])
    found = attention_inputs(case.model, both)["position_ids"]
    assert torch.equal(found, torch.cat([attention_inputs(case.model, row)["position_ids"] for row in rows], dim=1))


@cases(("llama", "llava-clip-llama", "llava-siglip-qwen2"), ("sdpa",), ("evaluation",))
def test_flex_gives_the_logits_of_sdpa(case: Case) -> None:
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = forward(case, packed(case, case.samples))
        use(case.model, "flex_attention")
        found = forward(case, packed(case, case.samples))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A dialogue tree of three levels: the tokens of each node, its parent; every node's tokens carry loss in each path through it."""

    nodes: tuple[torch.Tensor, ...]
    parents: tuple[int, ...]  # -1: the root

    @property
    def leaves(self) -> list[int]:
        return [node for node in range(len(self.nodes)) if node not in self.parents]

    def way(self, node: int) -> list[int]:
        return [] if node < 0 else [*self.way(self.parents[node]), node]


@pytest.fixture
def tree() -> Tree:
    generator = torch.Generator().manual_seed(2)
    lengths = (6, 4, 3, 5, 2, 4, 3, 1)
    nodes = tuple(torch.randint(0, 90, (length,), generator=generator) for length in lengths)
    return Tree(nodes=nodes, parents=(-1, 0, 1, 1, 0, 4, 4, 4))  # depth-first: two children of the root, with two and three


def joined(tree: Tree) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The whole tree in one row; the token that predicts each token; each token's weight, the sum over the paths through it."""
    starts = [sum(len(node) for node in tree.nodes[:number]) for number in range(len(tree.nodes))]
    inside = [[one for one in range(len(tree.nodes)) if number in tree.way(one)] for number in range(len(tree.nodes))]
    ends = [starts[max(below)] + len(tree.nodes[max(below)]) for below in inside]
    depths = [sum(len(tree.nodes[above]) for above in tree.way(parent)) for parent in tree.parents]
    positions = torch.cat([depth + torch.arange(len(node)) for depth, node in zip(depths, tree.nodes, strict=True)])
    predictors = torch.arange(len(positions)) - 1
    for number, parent in enumerate(tree.parents):
        predictors[starts[number]] = max(0, starts[parent] + len(tree.nodes[parent]) - 1 if parent >= 0 else 0)
    lengths = torch.tensor([len(node) for node in tree.nodes])
    weights = torch.tensor([len(set(below) & set(tree.leaves)) / len(tree.leaves) for below in inside]).repeat_interleave(lengths)
    weights[0] = 0.0
    batch = {
        "input_ids": torch.cat(tree.nodes)[None],
        "position_ids": positions[None],
        "visible_until": torch.tensor(ends).repeat_interleave(lengths).int()[None],
    }
    return batch, predictors, weights


@cases(("llama", "qwen2", "llava-siglip-qwen2"), ("eager", "sdpa"), ("training", "checkpointing"))
def test_a_tree_in_one_row_has_losses_and_gradients_of_its_paths(case: Case, tree: Tree) -> None:
    batch, predictors, weights = joined(tree)
    logits = forward(case, batch)
    together = (functional.cross_entropy(logits[predictors], batch["input_ids"][0], reduction="none") * weights).sum()
    separate = torch.zeros(())
    for leaf in tree.leaves:
        ids = torch.cat([tree.nodes[node] for node in tree.way(leaf)])
        separate = separate + loss_of(alone(case, Sample(ids=ids, learned=ids >= 0)), Sample(ids=ids, learned=ids >= 0))
    separate = separate / len(tree.leaves)
    assert torch.allclose(together, separate, rtol=1e-5)
    assert_equal_gradients(gradients(case, together), gradients(case, separate))


@cases(("llama", "llava-siglip-qwen2"), ("eager", "sdpa"), ("evaluation",))
def test_a_changed_branch_leaves_the_others_bit_identical(case: Case, tree: Tree) -> None:
    batch, _, _ = joined(tree)
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 6] += 1  # the first token of the root's first child
    with torch.no_grad():
        before, after = forward(case, batch), forward(case, changed)
    second = 6 + 4 + 3 + 5
    assert torch.equal(before[:6], after[:6]) and torch.equal(before[second:], after[second:])
    assert not torch.equal(before[6:second], after[6:second])


def test_the_mask_shows_what_lies_before_a_token_in_its_own_sample() -> None:
    found = mask(torch.tensor([[2, 2, 5, 5, 5]], dtype=torch.int32), "sdpa", torch.float32)[0, 0].int().tolist()
    assert found == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_padded_batches_stay_as_they_are() -> None:
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    assert attention_inputs(text_model("llama"), batch) == batch


# torch's kernel for many lengths


def by_segments(query: Any, key: Any, value: Any, bounds: Any, key_bounds: Any, longest: int, _: int, **options: Any) -> torch.Tensor:
    """What torch's kernel computes, sample by sample; in its order of arguments, its layout [tokens, heads, head size]."""
    assert bounds is key_bounds
    assert bounds.dtype == torch.int32
    assert longest == int(bounds.diff().max())
    assert options["window_size"] == (-1, 0)
    assert options["enable_gqa"] or query.shape[1] == key.shape[1]
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        states = [part[start:end].transpose(0, 1) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(*states, is_causal=True, scale=options["scale"], enable_gqa=options["enable_gqa"])
        parts.append(mixed.transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch's kernel, which computes on a GPU alone."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_segments)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("family", FAMILIES)
def test_varlen_gives_the_logits_of_sdpa(case_of: Callable[[str, str], Case], family: str) -> None:
    case = case_of(family, "sdpa")
    case.model.bfloat16()
    try:
        with torch.no_grad():
            expected = forward(case, packed(case, case.samples, padding=0)).float()
            use(case.model, "varlen")
            found = forward(case, flat(case, case.samples)).float()
    finally:
        case.model.float()
        use(case.model, "sdpa")
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.usefixtures("segments")
def test_varlen_hands_scale_and_shared_heads_to_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    options = {"cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32), "max_length_q": 5, "scaling": 0.7, "dropout": 0.0}
    found, _ = varlen.varlen_attention(torch.nn.Identity(), query, key, value, None, **options)
    ends = torch.tensor([4] * 4 + [9] * 5)[None]
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask(ends, "sdpa", torch.bfloat16), scale=0.7, enable_gqa=True
    )
    assert (found - expected.transpose(1, 2)).abs().max() <= 0.02


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        (torch.zeros(1, 2, 4, 8), {"cu_seq_lens_q": torch.tensor([0, 4])}, "float32, expected bf16"),
        (torch.zeros(1, 2, 4, 8).bfloat16(), {}, "no cu_seq_lens_q"),
        (torch.zeros(2, 2, 4, 8).bfloat16(), {"cu_seq_lens_q": torch.tensor([0, 4])}, "2 rows"),
        (torch.zeros(1, 2, 4, 8).bfloat16(), {"cu_seq_lens_q": torch.tensor([0, 4]), "dropout": 0.1}, "no dropout"),
    ],
)
def test_varlen_refuses_what_it_cannot_compute(states: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        varlen.varlen_attention(torch.nn.Identity(), states, states, states, None, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "llava-siglip-qwen2", "qwen2_5_vl"])
def test_varlen_on_a_gpu_has_losses_and_gradients_of_sdpa(case_of: Callable[[str, str], Case], family: str) -> None:
    if not varlen.is_available():
        pytest.skip("this torch has no varlen attention")
    case = case_of(family, "sdpa")
    case.model.to("cuda", torch.bfloat16)
    found = []
    try:
        for name, batch in (("sdpa", packed(case, case.samples, padding=0)), ("varlen", flat(case, case.samples))):
            use(case.model, name)
            on_gpu = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            logits = forward(case, on_gpu).split([len(sample.ids) for sample in case.samples])
            loss = sum(loss_of(part.float().cpu(), sample) for part, sample in zip(logits, case.samples, strict=True))
            found.append((loss, gradients(case, loss)))
    finally:
        case.model.to("cpu", torch.float32)
        use(case.model, "sdpa")
    (expected, others), (loss, own) = found
    assert torch.allclose(loss, expected, rtol=0.01)
    for name, gradient in own.items():
        assert (gradient - others[name]).float().norm() <= 0.05 * others[name].float().norm() + 1e-3, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "llava-siglip-qwen2"])
def test_flex_on_a_gpu_has_losses_and_gradients_of_sdpa(case_of: Callable[[str, str], Case], tree: Tree, family: str) -> None:
    case = case_of(family, "sdpa")
    case.model.cuda()
    batch, predictors, weights = joined(tree)
    on_gpu = {key: value.cuda() for key, value in batch.items()}
    found = []
    try:
        for name in ("sdpa", "flex_attention"):
            use(case.model, name)
            losses = functional.cross_entropy(forward(case, on_gpu)[predictors].cpu(), batch["input_ids"][0], reduction="none")
            loss = (losses * weights).sum()
            found.append((loss, gradients(case, loss)))
    finally:
        case.model.cpu()
        use(case.model, "sdpa")
    (expected, others), (loss, own) = found
    assert torch.allclose(loss, expected, rtol=1e-3)
    for name, gradient in own.items():
        assert (gradient - others[name]).norm() <= 0.01 * others[name].norm() + 1e-4, name
