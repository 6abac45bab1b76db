import pytest
import torch

from data.trees.engine import Sampling

PROMPTS = [[1, 4, 20, 30, 40], [1, 4, 9], [1, 4, 9], [1, 4, 50, 60, 70, 80, 90, 100], [1, 4, 22]]
GREEDY = Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=(2,))
SAMPLED = Sampling(max_tokens=40, temperature=1.0, top_p=0.9, stop_ids=(2,))


def _engine(tiny, batch_size=128):
    from data.trees.transformers_engine import TransformersEngine

    model, processor = tiny
    return TransformersEngine(model, processor.tokenizer, batch_size)


def test_a_greedy_answer_is_the_same_alone_and_in_a_batch(tiny):
    engine = _engine(tiny)
    together = engine.complete(PROMPTS, GREEDY, [[0]] * len(PROMPTS))
    alone = [engine.complete([prompt], GREEDY, [[0]])[0] for prompt in PROMPTS]
    assert [one[0].token_ids for one in together] == [one[0].token_ids for one in alone]
    assert len({one[0].token_ids for one in together}) > 2


def test_greedy_answers_are_the_likeliest_tokens_of_the_plain_model(tiny):
    model, _ = tiny
    prompt = PROMPTS[0]
    (completion,) = _engine(tiny).complete([prompt], GREEDY, [[0]])[0]
    ids = list(prompt)
    with torch.no_grad():
        for token in completion.token_ids:
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            logits[0] = -torch.inf  # the padding token is never written
            assert logits.argmax().item() == token
            ids.append(token)


def test_a_sampled_turn_depends_on_its_own_seed_alone(tiny):
    few = _engine(tiny, 2).complete(PROMPTS, SAMPLED, [[5, 6], [7], [8, 9], [10], [11]])
    many = _engine(tiny, 99).complete([PROMPTS[2]], SAMPLED, [[9, 1, 8]])
    assert few[2][1].token_ids == many[0][0].token_ids
    assert few[2][0].token_ids == many[0][2].token_ids
    assert few[2][0].token_ids != few[2][1].token_ids


def test_rows_that_have_ended_leave_the_others_as_they_are(tiny):
    engine = _engine(tiny)
    free = engine.complete(PROMPTS, SAMPLED, [[5]] * len(PROMPTS))
    stop = free[0][0].token_ids[6]  # ends some rows within the first stretch
    ending = Sampling(max_tokens=40, temperature=1.0, top_p=0.9, stop_ids=(stop,))
    for before, after in zip(free, engine.complete(PROMPTS, ending, [[5]] * len(PROMPTS)), strict=True):
        ids = before[0].token_ids
        assert after[0].token_ids == (ids[: ids.index(stop)] if stop in ids else ids)
        assert after[0].finish_reason == ("stop" if stop in ids else "length")


def test_the_global_random_state_is_left_alone(tiny):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    _engine(tiny).complete(PROMPTS, SAMPLED, [[0]] * len(PROMPTS))
    assert torch.rand(1) == expected


def test_log_probabilities_are_those_of_the_model_at_temperature_one(tiny):
    model, _ = tiny
    prompt = PROMPTS[3]
    (completion,) = _engine(tiny).complete([prompt], SAMPLED, [[3]])[0]
    ids = [*prompt, *completion.token_ids, *([2] if completion.finish_reason == "stop" else [])]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    logits[:, 0] = -torch.inf
    logprobs = logits.log_softmax(-1)
    expected = sum(logprobs[place - 1, ids[place]].item() for place in range(len(prompt), len(ids)))
    assert completion.logprob == pytest.approx(expected, abs=1e-3)


def test_a_turn_ends_at_its_stop_token_which_is_left_out(tiny):
    (free,) = _engine(tiny).complete([PROMPTS[0]], GREEDY, [[0]])[0]
    assert free.finish_reason == "length"
    stop = free.token_ids[4]
    (ended,) = _engine(tiny).complete([PROMPTS[0]], Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=(stop,)), [[0]])[0]
    assert ended.finish_reason == "stop"
    assert ended.token_ids == free.token_ids[: free.token_ids.index(stop)]


def test_a_turn_ends_at_a_stop_text(tiny):
    _, processor = tiny
    (free,) = _engine(tiny).complete([PROMPTS[0]], GREEDY, [[0]])[0]
    texts = [processor.tokenizer.decode([token]) for token in free.token_ids]
    place, text = next((place, text) for place, text in enumerate(texts) if place and text.isascii())  # not half of a letter
    sampling = Sampling(max_tokens=40, temperature=0.0, top_p=1.0, stop_ids=(2,), stop_texts=(text,))
    (ended,) = _engine(tiny).complete([PROMPTS[0]], sampling, [[0]])[0]
    assert ended.finish_reason == "stop"
    assert len(ended.token_ids) == place + 1


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
    expected = _engine(tiny).complete(PROMPTS, GREEDY, [[0]] * len(PROMPTS))
    model.generation_config.repetition_penalty = 9.0
    found = _engine(tiny).complete(PROMPTS, GREEDY, [[0]] * len(PROMPTS))
    assert [one[0].token_ids for one in found] == [one[0].token_ids for one in expected]
    assert model.generation_config.repetition_penalty == 9.0


def test_vectors_are_the_same_alone_and_in_a_batch(tiny):
    engine = _engine(tiny)
    texts = ["What colour is the square?", "Yes.", "The Murlo lives in a warm cave."]
    together = engine.embed(texts)
    for row, text in zip(together, texts, strict=True):
        assert engine.embed([text])[0] == pytest.approx(row, abs=1e-5)
        assert (row**2).sum() == pytest.approx(1.0, abs=1e-5)
