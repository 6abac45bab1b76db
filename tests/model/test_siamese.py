"""Base and twin in one model, against two full models and the paper's equations (tests/support/two_models.py)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import two_models
from packed_rows import FAMILIES, Case, Sample, make_case, pictured
from transformers import GenerationConfig

from model.adapters import AdapterConfig, attach
from model.config import GateConfig
from model.siamese import Prompts, Siamese, make_siamese, of

KINDS = tuple(two_models.KINDS)
TOKENS = 10


@dataclass(frozen=True, kw_only=True)
class Three:
    """A base, its tuned twin, the siamese of both, a sample for them."""

    base: Any
    twin: Any
    model: Any
    siamese: Siamese
    case: Case
    sample: Sample

    def inputs(self, ids: torch.Tensor | None = None) -> dict[str, Any]:
        ids = (self.sample.ids if ids is None else ids)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | pictured(self.case, [self.sample], ids)

    def expected(self, prompt: int) -> torch.Tensor:
        gate, inputs = self.siamese.gate, self.inputs()
        with torch.no_grad():
            return two_models.logits(self.base, self.twin, gate.w_a, gate.w_b, inputs, torch.arange(len(self.sample.ids)) < prompt)


@pytest.fixture(scope="module")
def cases(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(family: str) -> Case:
        if family not in made:
            made[family] = make_case(family, family_folder, tmp_path_factory.mktemp("pictures"))
        return made[family]

    return case


@pytest.fixture(scope="module")
def three(cases: Callable[[str], Case]) -> Callable[..., Three]:
    made: dict[tuple[Any, ...], Three] = {}

    def of_kind(family: str = "llama", kind: str = "lora", preset: str = "llm_blocks") -> Three:
        key = (family, kind, preset)
        if key not in made:
            case = cases(family)
            model = copy.deepcopy(case.model)
            base, twin, siamese = two_models.two_models(model, kind, preset)
            made[key] = Three(base=base, twin=twin, model=model, siamese=siamese, case=case, sample=case.samples[0])
        return made[key]

    return of_kind


@pytest.fixture
def fresh(three: Callable[..., Three]) -> Callable[..., Three]:
    """As `three`, for tests that change the model."""

    def copied(*arguments: str) -> Three:
        kept = three(*arguments)
        model = copy.deepcopy(kept.model)
        siamese = of(model)
        assert siamese is not None
        return Three(base=kept.base, twin=kept.twin, model=model, siamese=siamese, case=kept.case, sample=kept.sample)

    return copied


ALL = [(family, kind) for family in FAMILIES for kind in KINDS]


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_logits_are_those_of_two_full_models(three: Callable[..., Three], family: str, kind: str) -> None:
    one = three(family, kind)
    prompt = len(one.sample.ids) - 3
    with torch.no_grad(), one.siamese.told(torch.arange(len(one.sample.ids))[None] < prompt):
        found = one.model(**one.inputs(), use_cache=False).logits[0]
    torch.testing.assert_close(found, one.expected(prompt), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_logits_with_a_gradient_are_the_same(three: Callable[..., Three], family: str, kind: str) -> None:
    one = three(family, kind)
    found = one.model(**one.inputs(), use_cache=False).logits[0]
    torch.testing.assert_close(found.detach(), one.expected(len(one.sample.ids)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "llava-clip-llama", "qwen2_5_vl", "qwen3_vl"])
def test_with_adapters_in_the_upper_layers_alone_nothing_changes(three: Callable[..., Three], family: str, kind: str) -> None:
    one = three(family, kind, "llm_blocks[1:]")
    assert one.siamese.fork.first == 1
    expected = one.expected(len(one.sample.ids))
    with torch.no_grad():
        torch.testing.assert_close(one.model(**one.inputs(), use_cache=False).logits[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.model(**one.inputs(), use_cache=False).logits[0].detach(), expected, rtol=0, atol=1e-5)


def greedy(one: Three, **options: Any) -> list[int]:
    inputs = one.inputs()
    written = one.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0, **options)
    return written[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(("family", "kind"), [*((family, "lora") for family in FAMILIES), *(("llama", kind) for kind in KINDS[1:])])
def test_generating_with_a_cache_writes_what_the_released_loop_writes(three: Callable[..., Three], family: str, kind: str) -> None:
    one = three(family, kind)
    expected = two_models.greedy(one.base, one.twin, one.siamese.gate, one.inputs(), TOKENS)
    assert greedy(one) == expected
    assert len(set(expected)) > 2
    assert expected != base_writes(one)


def base_writes(one: Three) -> list[int]:
    with one.siamese.alone("base"):
        return greedy(one)


@pytest.mark.parametrize("preset", ["llm_blocks", "llm_blocks[1:]"])
def test_left_padded_rows_of_a_batch_write_what_each_writes_alone(three: Callable[..., Three], preset: str) -> None:
    one = three("llama", "lora", preset)
    samples = one.case.samples
    width = max(len(sample.ids) for sample in samples)
    ids = torch.stack([torch.nn.functional.pad(sample.ids, (width - len(sample.ids), 0)) for sample in samples])
    mask = torch.stack([torch.arange(width) >= width - len(sample.ids) for sample in samples]).long()
    options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = one.model.generate(input_ids=ids, attention_mask=mask, **options)[:, width:].tolist()
    gate = one.siamese.gate
    assert found == [two_models.greedy(one.base, one.twin, gate, one.inputs(sample.ids), TOKENS) for sample in samples]


def log_probabilities(one: Three, sequence: torch.Tensor, prompt: int) -> torch.Tensor:
    """Of each written token of a row, by the two full models."""
    inputs = one.inputs(sequence)
    with torch.no_grad():
        logits = two_models.logits(
            one.base, one.twin, one.siamese.gate.w_a, one.siamese.gate.w_b, inputs, torch.arange(len(sequence)) < prompt
        )
    return logits.log_softmax(dim=-1)[prompt - 1 : -1].gather(1, sequence[prompt:, None])[:, 0]


@pytest.mark.parametrize("preset", ["llm_blocks", "llm_blocks[1:]"])
def test_beams_have_the_scores_that_the_two_models_give_them(three: Callable[..., Three], preset: str) -> None:
    one = three("llama", "lora", preset)
    ids = torch.stack([one.sample.ids, one.sample.ids.flip(0)])
    found = one.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        num_beams=4,
        num_return_sequences=2,
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    prompt = ids.shape[1]
    expected = torch.stack([log_probabilities(one, row, prompt).sum() / TOKENS for row in found.sequences])
    torch.testing.assert_close(found.sequences_scores, expected, rtol=0, atol=1e-5)
    assert any(int(steps.unique().numel()) > 1 for steps in found.beam_indices)  # rows of the cache did change places


def test_sampling_draws_from_what_the_two_models_give(three: Callable[..., Three]) -> None:
    one = three()
    inputs, prompt = one.inputs(), len(one.sample.ids)
    options = {"max_new_tokens": TOKENS, "do_sample": True, "num_return_sequences": 3, "eos_token_id": None, "pad_token_id": 0, "top_k": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        found = one.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    assert len({tuple(row) for row in found.sequences.tolist()}) == 3
    own = torch.stack(found.logits, dim=1).log_softmax(dim=-1).gather(2, found.sequences[:, prompt:, None])[..., 0]
    expected = torch.stack([log_probabilities(one, row, prompt) for row in found.sequences])
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)


def test_a_second_question_to_a_kept_cache_is_asked_with_the_whole_dialogue(three: Callable[..., Three]) -> None:
    one = three()
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
    first = one.model.generate(**one.inputs(), max_new_tokens=4, **options)
    ids = torch.cat([first.sequences[0], one.sample.ids.flip(0)])
    again = one.model.generate(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        past_key_values=first.past_key_values,
        max_new_tokens=TOKENS,
        **options,
    )
    assert again.sequences[0, len(ids) :].tolist() == two_models.greedy(one.base, one.twin, one.siamese.gate, one.inputs(ids), TOKENS)


def with_a_gate_of(one: Three, share: float) -> None:
    """A gate that is 1 or 0 everywhere, whatever it reads."""
    scores = 200.0 if share == 1 else -200.0
    one.siamese.gate.bias = torch.nn.Parameter(torch.full((one.siamese.gate.w_b.shape[1],), scores))
    one.siamese.gate.w_b.data.zero_()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("share", "name"), [(1.0, "base"), (0.0, "twin")])
def test_a_gate_of_one_is_the_base_to_the_bit_and_of_zero_the_tuned_model(
    fresh: Callable[..., Three], kind: str, share: float, name: str
) -> None:
    one = fresh("llama", kind)
    with_a_gate_of(one, share)
    found = one.model(**one.inputs(), use_cache=False).logits
    assert torch.equal(found, getattr(one, name)(**one.inputs(), use_cache=False).logits)


@pytest.mark.parametrize(("share", "name"), [(1.0, "base"), (0.0, "twin")])
def test_a_gate_of_one_or_zero_writes_what_the_one_or_the_other_writes(fresh: Callable[..., Three], share: float, name: str) -> None:
    one = fresh()
    with_a_gate_of(one, share)
    inputs = one.inputs()
    expected = getattr(one, name).generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert greedy(one) == expected[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(("whose", "name"), [("base", "base"), ("tuned", "twin")])
def test_each_of_the_two_can_answer_alone(three: Callable[..., Three], whose: Any, name: str) -> None:
    one = three("llama", "ia3")
    with one.siamese.alone(whose):
        found = one.model(**one.inputs(), use_cache=False).logits
        beams = one.model.generate(**one.inputs(), max_new_tokens=4, num_beams=3, do_sample=False, pad_token_id=0)
    assert torch.equal(found, getattr(one, name)(**one.inputs(), use_cache=False).logits)
    assert torch.equal(beams, getattr(one, name).generate(**one.inputs(), max_new_tokens=4, num_beams=3, do_sample=False, pad_token_id=0))


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:])


def expected_gradients(one: Three) -> dict[str, torch.Tensor]:
    """Of the adapters and the gate, through the equations alone."""
    twin, gate = copy.deepcopy(one.twin), copy.deepcopy(one.siamese.gate)
    prompt = torch.ones(len(one.sample.ids), dtype=torch.bool)
    own = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        h_base = one.base.model(**one.inputs(), use_cache=False).last_hidden_state[0]
    h_twin = twin.model(**one.inputs(), use_cache=False).last_hidden_state[0]
    read = torch.cat([h_base[prompt].mean(0).expand_as(h_base), h_base, h_twin, h_twin[prompt].mean(0).expand_as(h_twin)], dim=1)
    share = torch.sigmoid(read @ gate.w_a @ gate.w_b)
    loss_of(one.base.get_output_embeddings()(share * h_base + (1 - share) * h_twin), one.sample.ids).backward()
    found = {name: parameter.grad for name, parameter in own.items()}
    return found | {"siamese_gate.w_a": gate.w_a.grad, "siamese_gate.w_b": gate.w_b.grad}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["llm_blocks", "llm_blocks[1:]"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_equations_and_reach_adapters_and_gate_alone(
    fresh: Callable[..., Three], kind: str, preset: str, checkpointing: bool
) -> None:
    one = fresh("llama", kind, preset)
    one.model.train()
    if checkpointing:
        one.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss_of(one.model(**one.inputs(), use_cache=False).logits[0], one.sample.ids).backward()
    found = {name: parameter.grad for name, parameter in one.model.named_parameters() if parameter.grad is not None}
    expected = expected_gradients(one)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_base_leaves_nothing_behind_for_a_backward_pass(fresh: Callable[..., Three]) -> None:
    one = fresh("llama", "lora", "llm_blocks[1:]")
    seen = []
    for layer in one.model.model.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.requires_grad))
    one.model(**one.inputs(), use_cache=False)
    assert seen == [False, False, False, True]  # the base's two layers; then what was kept of the first, the twin's second


@pytest.fixture
def counted(fresh: Callable[..., Three]) -> tuple[Three, list[tuple[int, int]]]:
    """A siamese that forks at layer 1, with a list of (layer, rows) of each product with a query matrix."""
    one = fresh("llama", "lora", "llm_blocks[1:]")
    calls: list[tuple[int, int]] = []
    for number, layer in enumerate(one.model.model.layers):
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _inputs, options, number=number: calls.append((number, len(options["hidden_states"]))), with_kwargs=True
        )
    return one, calls


def test_below_the_fork_layers_run_once_for_both_when_generating(counted: tuple[Three, list[tuple[int, int]]]) -> None:
    one, calls = counted
    output = one.model.generate(
        **one.inputs(), max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True
    )
    assert calls == [(0, 1), (1, 2)] * 2
    assert [len(layer.keys) for layer in output.past_key_values.layers] == [1, 2]


def test_below_the_fork_layers_run_once_for_both_in_training(counted: tuple[Three, list[tuple[int, int]]]) -> None:
    one, calls = counted
    one.model(**one.inputs(), use_cache=False).logits.sum().backward()
    assert calls == [(0, 1), (1, 1), (1, 1)]


def test_a_matrix_is_multiplied_with_the_rows_of_both_at_once(fresh: Callable[..., Three]) -> None:
    one = fresh("llama", "ia3")
    rows = []
    down = one.model.model.layers[0].mlp.down_proj.base_layer
    plain = down.forward
    down.forward = lambda inputs: rows.append(len(inputs)) or plain(inputs)
    with torch.no_grad():
        one.model(**one.inputs(), use_cache=False)
    assert rows == [2]


def test_a_copy_shares_nothing_with_the_model_it_was_made_from(three: Callable[..., Three], fresh: Callable[..., Three]) -> None:
    kept, one = three(), fresh()
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.zero_()
        assert not one.model(**one.inputs()).logits.any()
        torch.testing.assert_close(kept.model(**kept.inputs()).logits[0], kept.expected(len(kept.sample.ids)), rtol=0, atol=1e-5)


def test_a_kept_cache_does_not_go_on_where_a_gradient_is_asked_for(three: Callable[..., Three]) -> None:
    one = three()
    with torch.no_grad():
        cache = one.model(**one.inputs(), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="torch.no_grad"):
        one.model(input_ids=one.sample.ids[None, :1], past_key_values=cache)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 4}])
@pytest.mark.parametrize("place", ["word", "config", "positional", "model"])
def test_ways_of_generating_that_would_blur_the_prompt_are_refused(
    fresh: Callable[..., Three], options: dict[str, Any], place: str
) -> None:
    one = fresh()
    config, ids = GenerationConfig(max_new_tokens=3, pad_token_id=0, **options), one.sample.ids[None]
    if place == "model":
        for name, value in options.items():
            setattr(one.model.generation_config, name, value)
    ways = {
        "word": lambda: greedy(one, **options),
        "config": lambda: one.model.generate(ids, generation_config=config),
        "positional": lambda: one.model.generate(ids, config),
        "model": lambda: one.model.generate(ids, max_new_tokens=3),
    }
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* does not go with a siamese model"):
        ways[place]()


def test_continuous_batching_is_refused(three: Callable[..., Three]) -> None:
    with pytest.raises(ValueError, match="continuous batching, which mixes prompts"):
        three().model.generate_batch([[5, 6]])


def test_transformers_own_way_of_saving_is_refused(three: Callable[..., Three], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would not find its base again"):
        three().model.save_pretrained(tmp_path)


def test_labels_without_a_prompt_are_refused(three: Callable[..., Three]) -> None:
    one = three()
    ids = one.sample.ids[None]
    with pytest.raises(ValueError, match="must be told where the prompt ends"):
        one.model(input_ids=ids, labels=ids)
    with torch.no_grad(), one.siamese.told(torch.arange(ids.shape[1])[None] < 4):
        loss = one.model(input_ids=ids, labels=ids).loss
    assert float(loss) == pytest.approx(float(loss_of(one.expected(4), one.sample.ids)), abs=1e-5)


@pytest.mark.parametrize("use_cache", [False, True])
def test_what_is_told_counts_whether_a_cache_is_kept_or_not(three: Callable[..., Three], use_cache: bool) -> None:
    one = three()
    with torch.no_grad(), one.siamese.told(torch.arange(len(one.sample.ids))[None] < 4):
        found = one.model(**one.inputs(), use_cache=use_cache).logits[0]
    torch.testing.assert_close(found, one.expected(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("told", [torch.zeros(1, 9).bool(), torch.ones(1, 3).bool()], ids=["nothing", "another shape"])
def test_a_prompt_that_cannot_be_one_is_refused(three: Callable[..., Three], told: torch.Tensor) -> None:
    one = three()
    with torch.no_grad(), one.siamese.told(told), pytest.raises(ValueError, match="a token of the prompt in every row"):
        one.model(input_ids=one.sample.ids[None, :9], use_cache=False)


def test_a_loop_of_ones_own_writes_what_generate_writes(three: Callable[..., Three]) -> None:
    one = three("llama", "lora", "llm_blocks[1:]")
    output, written = one.model(**one.inputs(), use_cache=True), []  # the first pass with a gradient: its cache serves all the same
    with torch.no_grad():
        for _ in range(TOKENS):
            written.append(int(output.logits[0, -1].argmax()))
            output = one.model(input_ids=torch.tensor([[written[-1]]]), past_key_values=output.past_key_values, use_cache=True)
    assert written == greedy(one)


def test_a_kept_prefix_with_the_prompts_last_token_is_the_whole_prompt(three: Callable[..., Three]) -> None:
    one = three()
    ids = one.sample.ids[None]
    with torch.no_grad():
        prefix = one.model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = one.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=prefix, **options)
    assert found[0, ids.shape[1] :].tolist() == greedy(one)


def test_a_second_question_after_beams_is_asked_with_the_beam_that_won(three: Callable[..., Three]) -> None:
    one = three()
    ids = one.sample.ids[None]
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
    first = one.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, num_beams=3, **options)
    more = torch.cat([first.sequences[0], one.sample.ids.flip(0)]).expand(3, -1)
    cache = first.past_key_values
    with torch.no_grad():
        new = more[:, cache.get_seq_length() :]
        found = one.model(input_ids=new, attention_mask=torch.ones_like(more), past_key_values=cache).logits[:, -1]
    expected = logits_behind(one, more[0])
    assert any(float((row - expected).abs().max()) < 1e-5 for row in found)


def logits_behind(one: Three, ids: torch.Tensor) -> torch.Tensor:
    """By the two full models, all of it being the prompt."""
    everything = torch.ones(len(ids), dtype=torch.bool)
    with torch.no_grad():
        return two_models.logits(one.base, one.twin, one.siamese.gate.w_a, one.siamese.gate.w_b, one.inputs(ids), everything)[-1]


def test_tokens_that_a_later_mask_hides_are_not_left_in_the_query(three: Callable[..., Three]) -> None:
    one = three()
    ids = one.sample.ids[None]
    with torch.no_grad():
        cache = one.model(input_ids=ids, use_cache=True).past_key_values
        mask = torch.ones(1, ids.shape[1] + 2).long()
        mask[0, ids.shape[1] - 1] = 0
        with pytest.raises(ValueError, match="hides tokens behind the key-value cache"):
            one.model(input_ids=ids[:, :2], attention_mask=mask, past_key_values=cache)


def test_one_of_the_two_does_not_go_on_from_the_cache_of_both(three: Callable[..., Three]) -> None:
    one = three()
    with torch.no_grad():
        cache = one.model(**one.inputs(), use_cache=True).past_key_values
        with one.siamese.alone("base"), pytest.raises(ValueError, match="holds base and twin, the base model alone cannot go on"):
            one.model(input_ids=one.sample.ids[None, :1], past_key_values=cache)


def test_an_adapter_that_was_merged_into_its_base_is_refused(fresh: Callable[..., Three]) -> None:
    one = fresh()
    one.model.model.layers[0].mlp.up_proj.merge()
    with pytest.raises(ValueError, match="an adapter was merged into its base"), torch.no_grad():
        one.model(**one.inputs())


def test_flex_attention_in_one_batch_is_refused_in_words(fresh: Callable[..., Three]) -> None:
    one = fresh()
    one.model.set_attn_implementation("flex_attention")
    mask = torch.ones(1, len(one.sample.ids)).long()
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="flex attention cannot hold base and twin in one batch"), torch.no_grad():
        one.model(input_ids=one.sample.ids[None], attention_mask=mask)


def test_in_bf16_queries_are_summed_in_float32() -> None:
    hidden = torch.randn(1, 3000, 8, generator=torch.Generator().manual_seed(8)).bfloat16() + 1
    prompts = Prompts(row=torch.zeros(1).long(), tokens=torch.ones(1, 3000).bool(), of=torch.zeros(1).long())
    torch.testing.assert_close(prompts.means(hidden), hidden.float().mean(dim=1), rtol=1e-5, atol=0)


def test_a_static_cache_is_refused(three: Callable[..., Three]) -> None:
    with pytest.raises(ValueError, match="leave cache_implementation out"):
        greedy(three(), cache_implementation="static")


def test_a_base_that_would_not_stay_as_it_is_is_refused(cases: Callable[[str], Case]) -> None:
    model = copy.deepcopy(cases("llava-clip-llama").model)
    attach(model, AdapterConfig(kind="lora"), "llm_blocks+projector", steps=1, seed=0)
    with pytest.raises(ValueError, match=r"multi_modal_projector.*stays as it is.*llm_blocks"):
        make_siamese(model, None, seed=0)


@pytest.mark.parametrize("kind", ["no_query", "scalar", "fixed"])
def test_every_ablation_generates(cases: Callable[[str], Case], kind: Any) -> None:
    case = cases("llama")
    model = copy.deepcopy(case.model)
    _, _, siamese = two_models.two_models(model, "lora", gate=GateConfig(kind=kind))
    ids = case.samples[0].ids[None]
    with siamese.watched() as seen:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert len(seen) == 3
    assert seen[0].share.shape == (1, 1, 1 if kind != "no_query" else 64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gradient", [False, True])
def test_rows_of_a_batch_have_queries_and_positions_of_their_own(three: Callable[..., Three], family: str, gradient: bool) -> None:
    one = three(family)
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(6))  # three: as many as mRoPE's dimensions
    with torch.set_grad_enabled(gradient):
        together = one.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        alone = [one.model(input_ids=row[None], attention_mask=torch.ones(1, 9).long(), use_cache=False).logits[0] for row in ids]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)


def test_pictures_belong_to_their_row(three: Callable[..., Three]) -> None:
    one = three("qwen3_vl")
    ids = torch.stack([one.sample.ids, one.sample.ids.flip(0)])
    ids[1] = torch.where(ids[1] == one.model.config.image_token_id, 5, ids[1])
    ids[1] = torch.where(ids[1] >= 300, 6, ids[1])
    with torch.no_grad():
        both = one.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), **pictured(one.case, [one.sample], ids), use_cache=False
        ).logits
    torch.testing.assert_close(both[0], one.expected(len(one.sample.ids)), rtol=0, atol=1e-5)
