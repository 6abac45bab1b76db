import pytest
import torch

from data.trees.engine import Request, Sampling

PROMPTS = [[1, 4, 20, 30, 40], [1, 4, 9], [1, 4, 9], [1, 4, 50, 60, 70, 80, 90, 100], [1, 4, 22]]
GREEDY = Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=(2,))
SAMPLED = Sampling(max_tokens=40, temperature=1.0, top_p=0.9, stop_ids=(2,))


def _engine(tiny, batch_size=128):
    from data.trees.transformers_engine import TransformersEngine

    model, processor = tiny
    return TransformersEngine(model, processor.tokenizer, batch_size)


def _write(engine, prompts, sampling, seeds=None):
    """One turn after each prompt, all as one block."""
    seeds = seeds or [0] * len(prompts)
    requests = [Request(prompt="", ids=tuple(prompt), seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    (written,) = engine.complete([requests], sampling)
    return written


def test_a_greedy_answer_is_the_same_alone_and_in_a_block(tiny):
    engine = _engine(tiny)
    together = _write(engine, PROMPTS, GREEDY)
    alone = [_write(engine, [prompt], GREEDY)[0] for prompt in PROMPTS]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in together}) > 2


def test_greedy_answers_are_the_likeliest_tokens_of_the_plain_model(tiny):
    model, processor = tiny
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(GREEDY.max_tokens):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            logits[0] = -torch.inf  # the padding token is never written
            ids.append(int(logits.argmax()))
    (completion,) = _write(_engine(tiny), [PROMPTS[0]], GREEDY)
    assert completion.text == processor.tokenizer.decode(ids[len(PROMPTS[0]) :])
    assert completion.tokens == GREEDY.max_tokens


def test_blocks_come_back_in_their_order(tiny):
    requests = [[Request(prompt="", ids=tuple(prompt), seed=0)] for prompt in PROMPTS]
    written = [block[0].text for block in _engine(tiny).complete(iter(requests), GREEDY)]
    assert written == [one.text for one in _write(_engine(tiny), PROMPTS, GREEDY)]


def test_a_sampled_turn_depends_on_its_own_seed_alone(tiny):
    two = [PROMPTS[2], PROMPTS[2]]
    first, second = _write(_engine(tiny), two, SAMPLED, [8, 9])
    among_others = _write(_engine(tiny), [*PROMPTS, *two], SAMPLED, [1, 2, 3, 4, 5, 9, 8])
    assert (second.text, first.text) == (among_others[5].text, among_others[6].text)
    assert first.text != second.text


def test_rows_that_have_ended_leave_the_others_as_they_are(tiny):
    engine, tokenizer = _engine(tiny), tiny[1].tokenizer
    free = _write(engine, PROMPTS, SAMPLED, [5] * len(PROMPTS))
    stops = tuple(range(20, len(tokenizer), 8))  # some rows meet one early, some late
    ending = Sampling(max_tokens=40, temperature=1.0, top_p=0.9, stop_ids=stops)
    lengths = set()
    for before, after in zip(free, _write(engine, PROMPTS, ending, [5] * len(PROMPTS)), strict=True):
        assert before.text.startswith(after.text.rstrip("\ufffd"))  # may end within a letter
        assert (after.finish_reason == "stop") == (after.text != before.text)
        lengths.add(after.tokens)
    assert len(lengths) > 2
    assert min(lengths) < 16 < 40


def test_the_global_random_state_is_left_alone(tiny):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    _write(_engine(tiny), PROMPTS, SAMPLED)
    assert torch.rand(1) == expected


def test_log_probabilities_are_those_of_the_model_at_temperature_one(tiny):
    model, _ = tiny
    stop = Sampling(max_tokens=1, temperature=1.0, top_p=0.9, stop_ids=(2,))
    (completion,) = _write(_engine(tiny), [PROMPTS[3]], stop, [3])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPTS[3]])).logits[0, -1]
    logits[0] = -torch.inf
    written = tiny[1].tokenizer.convert_tokens_to_ids(completion.text) if completion.finish_reason == "length" else 2
    candidates = [number for number in range(len(logits)) if tiny[1].tokenizer.decode([number]) == completion.text] or [written]
    expected = [logits.log_softmax(-1)[number].item() for number in candidates]
    assert any(completion.logprob == pytest.approx(one, abs=1e-4) for one in expected)


def test_log_probabilities_of_a_turns_tokens_add_up(tiny):
    long = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, stop_ids=(2,))
    short = Sampling(max_tokens=7, temperature=0.0, top_p=1.0, stop_ids=(2,))
    whole, part = (_write(_engine(tiny), [PROMPTS[3]], one)[0] for one in (long, short))
    assert whole.text.startswith(part.text)
    assert whole.logprob < part.logprob < 0


def test_a_turn_ends_at_its_stop_token_which_is_left_out(tiny):
    engine, tokenizer = _engine(tiny), tiny[1].tokenizer
    (free,) = _write(engine, [PROMPTS[0]], GREEDY)
    assert free.finish_reason == "length"
    (ended,) = _write(engine, [PROMPTS[0]], Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=tuple(range(3, len(tokenizer)))))
    assert (ended.text, ended.tokens, ended.finish_reason) == ("", 0, "stop")


def test_a_turn_ends_at_a_stop_text_which_is_left_out(tiny):
    (free,) = _write(_engine(tiny), [PROMPTS[0]], GREEDY)
    text = next(free.text[place : place + 2] for place in range(3, len(free.text) - 2) if free.text[place : place + 2].isascii())
    sampling = Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=(2,), stop_texts=(text,))
    (ended,) = _write(_engine(tiny), [PROMPTS[0]], sampling)
    assert ended.finish_reason == "stop"
    assert ended.text == free.text[: free.text.index(text)]


def test_sampling_follows_the_distribution_and_respects_top_p(tiny):
    from data.trees.transformers_engine import Draw

    scores = torch.log(torch.tensor([[0.15, 0.5, 0.05, 0.3]]).repeat(20_000, 1))
    for top_p, expected in ((1.0, (0.15, 0.5, 0.05, 0.3)), (0.7, (0.0, 0.625, 0.0, 0.375))):
        draw = Draw(range(20_000), Sampling(max_tokens=1, temperature=1.0, top_p=top_p, stop_ids=()), None, "cpu")
        chosen = draw(torch.empty(0), scores.clone()).argmax(-1)
        shares = torch.bincount(chosen, minlength=4) / 20_000
        assert shares.tolist() == pytest.approx(expected, abs=0.015)


def test_a_checkpoints_own_sampling_settings_take_no_part(tiny):
    model, _ = tiny
    expected = _write(_engine(tiny), PROMPTS, GREEDY)
    model.generation_config.repetition_penalty = 9.0
    assert _write(_engine(tiny), PROMPTS, GREEDY) == expected
    assert model.generation_config.repetition_penalty == 9.0


def test_vectors_are_the_same_alone_and_in_a_batch(tiny):
    engine = _engine(tiny)
    texts = ["What colour is the square?", "Yes.", "The Murlo lives in a warm cave."]
    together = engine.embed(texts)
    for row, text in zip(together, texts, strict=True):
        assert engine.embed([text])[0] == pytest.approx(row, abs=1e-5)
        assert (row**2).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_end_of_a_turn_counts_in_its_log_probability(tiny):
    model, processor = tiny
    ends = tuple(range(3, len(processor.tokenizer)))
    (ended,) = _write(_engine(tiny), [PROMPTS[0]], Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=ends))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    logits[0] = -torch.inf
    assert ended.tokens == 0
    assert ended.logprob == pytest.approx(logits.log_softmax(-1).max().item(), abs=1e-4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_next", "llava_onevision"])
def test_the_backbone_of_every_family_writes_in_a_block_what_it_writes_alone(family_folder, family):
    from data.trees.transformers_engine import TransformersEngine
    from model.build import load_pair

    model, processor = load_pair(family_folder(family))
    engine = TransformersEngine(model, processor.tokenizer)
    many = tuple(range(20, len(processor.tokenizer), 12))  # rows end at different times
    for sampling in (Sampling(max_tokens=24, temperature=1.0, top_p=0.9, stop_ids=many), GREEDY):
        prompts = [PROMPTS[0], PROMPTS[3], PROMPTS[3], PROMPTS[1], PROMPTS[4]]
        together = _write(engine, prompts, sampling, [1, 2, 3, 4, 5])
        alone = [_write(engine, [prompt], sampling, [seed])[0] for seed, prompt in enumerate(prompts, start=1)]
        assert [one.text for one in together] == [one.text for one in alone]


def test_a_model_whose_states_cannot_be_dealt_out_is_refused_in_words(tiny):
    engine = _engine(tiny)

    class Recurrent:
        def batch_select_indices(self, rows):
            raise AttributeError("no rows")

    with pytest.raises(ValueError, match="endpoint or vllm"):
        engine._select(Recurrent(), torch.tensor([0]))
