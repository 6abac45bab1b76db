import pytest

from data.trees.plan import TreeConfig

EXACT = {"spelling": None, "embeddings": "none"}


def _plan(**values):
    return TreeConfig(**{"children": (3, 1, 2, 1), "max_tokens": 16, "dedup": EXACT, **values})


def _unlike(prompt, seed):
    """Every turn another one."""
    return f"turn {seed}", "stop"


def test_the_full_tree_has_every_planned_node_with_its_path_as_id(scripted, grow_in, tmp_path):
    tree = grow_in(_plan(), scripted(_unlike), tmp_path)
    assert [len([n for n in tree.nodes if n.layer == layer]) for layer in range(4)] == [3, 3, 6, 6]
    ids = {node.id for node in tree.nodes}
    assert len(ids) == 18
    assert all(node.parent is None if "." not in node.id else node.parent == node.id.rpartition(".")[0] for node in tree.nodes)
    assert {node.role for node in tree.nodes if node.layer % 2 == 0} == {"user"}


def test_a_childs_prompt_is_the_parents_prompt_its_text_and_the_opener(scripted, grow_in, tmp_path):
    engine = scripted(_unlike)
    tree = grow_in(_plan(children=(1, 1, 1, 1)), engine, tmp_path)
    question, answer, follow_up, _ = tree.nodes
    assert engine.prompts[0] == "<s><|user|>"
    assert engine.prompts[1] == engine.prompts[0] + question.text + "<|end|><|assistant|>"
    assert engine.prompts[2] == engine.prompts[1] + answer.text + "<|end|><|user|>"
    assert engine.prompts[3] == engine.prompts[2] + follow_up.text + "<|end|><|assistant|>"


def test_system_prompts_and_topics_are_dealt_out_to_the_first_questions(scripted, grow_in, tmp_path):
    engine = scripted(_unlike)
    tree = grow_in(_plan(children=(6, 1), system=("Be kind.", "Be brief."), topics=("whales", "moss", "rain")), engine, tmp_path)
    roots = [node for node in tree.nodes if node.layer == 0]
    assert [(node.system, node.topic) for node in roots[:3]] == [("Be kind.", "whales"), ("Be brief.", "moss"), ("Be kind.", "rain")]
    assert len({(node.system, node.topic) for node in roots}) == 6
    prompts = [prompt for prompt in engine.prompts if "moss" in prompt]
    assert all("The conversation is about moss." in prompt for prompt in prompts)
    assert len(prompts) == 4


def test_answers_are_written_under_the_system_prompt_of_their_question(scripted, grow_in, tmp_path):
    engine = scripted(_unlike)
    tree = grow_in(_plan(children=(4, 1), system=("Be kind.", "Be brief.")), engine, tmp_path)
    for node in tree.nodes:
        if node.layer == 0:
            (prompt,) = [prompt for prompt in engine.prompts if node.text + "<|end|>" in prompt]
            assert node.system in prompt


def test_dialogues_end_after_the_round_that_the_plan_says(scripted, grow_in, tmp_path):
    tree = grow_in(_plan(children=(8, 1, 1, 1), ends=0.25), scripted(_unlike), tmp_path)
    assert [layer["kept"] for layer in tree.layers] == [8, 8, 6, 6]


def test_exact_duplicates_are_drawn_again_and_counted(scripted, grow_in, tmp_path):
    engine = scripted(lambda _, seed: (f"{'Why?!' if seed % 3 else seed}", "stop"))
    tree = grow_in(_plan(children=(5, 1)), engine, tmp_path)
    questions = [node.text for node in tree.nodes if node.layer == 0]
    counts = tree.layers[0]
    assert len(questions) == 5
    assert questions.count("Why?!") == 1
    assert counts["dropped"]["exact_duplicate"] == counts["sampled"] - 5
    assert len(counts["rounds"]) > 1


def test_turns_of_one_meaning_are_found_by_their_vectors_and_the_first_stays(scripted, grow_in, tmp_path):
    import numpy as np

    vectors = {"alpha": (1.0, 0.0), "beta": (0.995, 0.0999), "gamma": (0.0, 1.0)}
    words = iter(["alpha", "beta", "gamma"] * 9)
    plan = _plan(children=(3, 1), max_rounds=1, dedup={"spelling": None, "embeddings": "states", "threshold": 0.975})
    engine = scripted(lambda *_: (next(words), "stop"))
    tree = grow_in(plan, engine, tmp_path, embed=lambda texts: np.array([vectors[text] for text in texts], np.float32))
    assert [node.text for node in tree.nodes if node.layer == 0] == ["alpha", "gamma"]
    assert tree.layers[0]["dropped"] == {"same_meaning": 1}


def test_comparing_meanings_needs_vectors(scripted, grow_in, tmp_path):
    with pytest.raises(ValueError, match=r"tree\.dedup\.embeddings"):
        grow_in(_plan(dedup={"embeddings": "states"}), scripted(_unlike), tmp_path)


def test_siblings_alone_are_compared_unless_the_scope_is_the_layer(scripted, grow_in, tmp_path):
    def follow_ups_repeat(prompt, seed):
        return ("Why?" if prompt.count("<|user|>") == 2 and prompt.endswith("<|user|>") else str(seed)), "stop"

    tree = grow_in(_plan(children=(3, 1, 1, 1)), scripted(follow_ups_repeat), tmp_path / "siblings")
    assert len(tree.nodes) == 12
    over_layer = _plan(children=(3, 1, 1, 1), dedup={**EXACT, "scope": "layer"})
    tree = grow_in(over_layer, scripted(follow_ups_repeat), tmp_path / "layer")
    assert sum(node.layer == 2 for node in tree.nodes) == 1


def test_equal_answers_to_different_questions_are_no_duplicates(scripted, grow_in, tmp_path):
    plan = _plan(children=(4, 1), dedup={**EXACT, "scope": "layer"})
    engine = scripted(lambda prompt, seed: ("Yes." if "<|assistant|>" in prompt else str(seed), "stop"))
    assert [node.text for node in grow_in(plan, engine, tmp_path).nodes if node.layer == 1] == ["Yes."] * 4


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("cut off in the", "length", "unfinished"),
        (" .", "stop", "empty"),
        ("Hi<|user|>and you?", "stop", "role_leak"),
        ("What is <image>?", "stop", "role_leak"),
    ],
)
def test_useless_turns_are_dropped_and_counted(scripted, grow_in, tmp_path, text, finish, reason):
    engine = scripted(lambda _, seed: (text, finish) if seed % 2 else (str(seed), "stop"))
    layer = grow_in(_plan(children=(20, 1), max_rounds=1), engine, tmp_path).layers[0]
    assert layer["dropped"][reason] > 0
    assert layer["kept"] + layer["dropped"][reason] == layer["sampled"] == 20


def test_every_sampled_turn_is_kept_or_counted_as_dropped(scripted, grow_in, tmp_path):
    engine = scripted(lambda _, seed: (str(seed % 7), "length" if seed % 5 == 0 else "stop"))
    for layer in grow_in(_plan(children=(30, 1, 3, 1)), engine, tmp_path).layers:
        assert layer["sampled"] == layer["kept"] + sum(layer["dropped"].values())
        assert layer["sampled"] == sum(block["sampled"] for block in layer["blocks"]) == sum(one["sampled"] for one in layer["rounds"])


def test_a_model_that_has_said_all_is_asked_no_further(scripted, grow_in, tmp_path):
    tree = grow_in(_plan(children=(100, 1), max_rounds=99), scripted(lambda *_: ("Why?", "stop")), tmp_path)
    assert tree.layers[0]["rounds"] == [{"sampled": 100, "kept": 1}]


def test_greedy_answers_are_never_asked_for_twice(scripted, grow_in, tmp_path):
    engine = scripted(lambda prompt, seed: ("no end", "length") if "<|assistant|>" in prompt else (str(seed), "stop"))
    tree = grow_in(_plan(children=(3, 1)), engine, tmp_path)
    assert tree.layers[1]["sampled"] == 3
    assert tree.layers[1]["dropped"] == {"unfinished": 3}
    larger = grow_in(_plan(children=(4, 1)), engine, tmp_path)
    assert larger.layers[1]["sampled"] == 4


def test_each_nodes_seed_depends_on_plan_parent_and_attempt_alone(scripted, grow_in, tmp_path):
    small, large, other = (
        grow_in(_plan(children=(size, 1), seed=seed), scripted(_unlike), tmp_path / f"{size}-{seed}")
        for size, seed in ((2, 0), (4, 0), (4, 1))
    )
    assert [n.seed for n in small.nodes if n.layer == 0] == [n.seed for n in large.nodes if n.layer == 0][:2]
    assert not {n.seed for n in large.nodes} & {n.seed for n in other.nodes}


class Stopped(Exception):
    pass


def _stop_after(turns):
    count = iter(range(10**9))

    def script(prompt, seed):
        if next(count) >= turns:
            raise Stopped
        return _unlike(prompt, seed) if seed % 4 else ("again and again", "stop")

    return script


@pytest.mark.parametrize("turns", [0, 3, 4, 9, 17, 30, 41])
def test_growth_that_was_stopped_anywhere_ends_in_the_same_tree(scripted, grow_in, tmp_path, turns):
    plan = _plan(children=(8, 1, 2, 1))
    whole = grow_in(plan, scripted(_stop_after(10**6)), tmp_path / "whole")
    with pytest.raises(Stopped):
        grow_in(plan, scripted(_stop_after(turns)), tmp_path / "stopped")
    engine = scripted(_stop_after(10**6))
    resumed = grow_in(plan, engine, tmp_path / "stopped")
    assert resumed.nodes == whole.nodes
    assert [layer["dropped"] for layer in resumed.layers] == [layer["dropped"] for layer in whole.layers]
    assert len(engine.prompts) == sum(layer["sampled"] for layer in whole.layers) - turns // 4 * 4  # whole blocks alone are kept


def test_a_finished_growth_asks_the_engine_nothing(scripted, grow_in, tmp_path):
    grow_in(_plan(), scripted(_unlike), tmp_path)
    engine = scripted(_unlike)
    grow_in(_plan(), engine, tmp_path)
    assert engine.prompts == []


def test_another_block_size_in_the_middle_loses_and_doubles_nothing(scripted, grow_in, tmp_path):
    plan = _plan(children=(20, 1))
    whole = grow_in(plan, scripted(_unlike), tmp_path / "whole")
    with pytest.raises(Stopped):
        grow_in(plan, scripted(_stop_after(9)), tmp_path / "stopped")
    resumed = grow_in(plan, scripted(_unlike, block_size=7), tmp_path / "stopped")
    assert {node.id for node in resumed.nodes} == {node.id for node in whole.nodes}


def test_fewer_rounds_or_a_higher_floor_ask_for_nothing_more(scripted, grow_in, tmp_path):
    few = scripted(lambda prompt, seed: (f"word {seed % 3}", "stop"))
    first = grow_in(_plan(children=(9, 1), max_rounds=4), few, tmp_path)
    engine = scripted(_unlike)
    again = grow_in(_plan(children=(9, 1), max_rounds=2), engine, tmp_path)
    assert (again.nodes, engine.prompts) == (first.nodes, [])
    more = grow_in(_plan(children=(9, 1), max_rounds=6), scripted(_unlike), tmp_path)
    assert len(more.nodes) > len(first.nodes)


@pytest.mark.parametrize("children", [(9, 1, 2, 1), (5, 1, 4, 1), (5, 1, 2, 1, 3, 1), (7, 1, 3, 1, 1, 1)])
def test_an_extended_plan_keeps_what_grew_and_grows_the_rest(scripted, grow_in, tmp_path, children):
    first = grow_in(_plan(children=(5, 1, 2, 1)), scripted(_unlike), tmp_path)
    engine = scripted(_unlike)
    larger = grow_in(_plan(children=children), engine, tmp_path)
    assert set(first.nodes) <= set(larger.nodes)
    assert len(engine.prompts) == len(larger.nodes) - len(first.nodes)
    assert len(larger.nodes) == _plan(children=children).nodes
    assert len({node.seed for node in larger.nodes}) == len(larger.nodes)


def test_an_extension_in_the_middle_of_a_growth_keeps_what_grew(scripted, grow_in, tmp_path):
    with pytest.raises(Stopped):
        grow_in(_plan(children=(8, 1, 2, 1)), scripted(_stop_after(13)), tmp_path)
    larger = grow_in(_plan(children=(12, 1, 2, 1)), scripted(_unlike), tmp_path)
    assert len(larger.nodes) == _plan(children=(12, 1, 2, 1)).nodes
    assert len({node.id for node in larger.nodes}) == len(larger.nodes)


def test_new_questions_of_an_extension_are_compared_with_the_old_ones(scripted, grow_in, tmp_path):
    grow_in(_plan(children=(2, 1)), scripted(lambda prompt, seed: (f"word {seed % 3}", "stop")), tmp_path)
    larger = grow_in(_plan(children=(3, 1)), scripted(lambda prompt, seed: (f"word {seed % 3}", "stop")), tmp_path)
    questions = [node.text for node in larger.nodes if node.layer == 0]
    assert len(questions) == len(set(questions))


def test_first_questions_to_choose_a_threshold_by_are_those_that_growth_would_write(scripted, grow_in, tokenizer, tmp_path):
    from data.trees.grow import first_questions
    from data.trees.make import tools_of
    from data.trees.writers import Writer

    plan = _plan(children=(12, 1), topics=("whales", "moss"))
    writer = Writer(engine=scripted(_unlike), tokenizer=tokenizer, embed=None, identity={}, name="scripted", positions=None)
    grown = grow_in(plan, scripted(_unlike), tmp_path)
    assert set(first_questions(plan, tools_of(plan, writer))) == {node.text for node in grown.nodes if node.layer == 0}
