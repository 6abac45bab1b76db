import json

import numpy as np
import pytest

from data.trees.plan import TreeConfig

EXACT = {"near": "none"}


def _plan(**values):
    return TreeConfig(**{"children": (3, 1, 2, 1), "max_tokens": (16, 16, 16, 16), "dedup": EXACT, **values})


def _grow(*arguments, **options):
    from data.trees.grow import grow

    return grow(*arguments, **options)


def _unlike(prompt, seed):
    """Every turn another one."""
    return f"turn {seed}", "stop"


def test_the_full_tree_has_every_planned_node_with_its_path_as_id(tokenizer, scripted):
    tree = _grow(_plan(), scripted(_unlike), tokenizer)
    assert [len([n for n in tree.nodes if n.layer == layer]) for layer in range(4)] == [3, 3, 6, 6]
    ids = {node.id for node in tree.nodes}
    assert len(ids) == 18
    assert all(node.parent is None if "." not in node.id else node.parent == node.id.rpartition(".")[0] for node in tree.nodes)
    assert {node.role for node in tree.nodes if node.layer % 2 == 0} == {"user"}


def test_a_childs_prompt_is_the_parents_prompt_its_text_and_the_opener(tokenizer, scripted):
    engine = scripted(_unlike)
    tree = _grow(_plan(children=(1, 1, 1, 1)), engine, tokenizer)
    question, answer, follow_up, _ = tree.nodes
    assert engine.prompts[0] == "<s><|user|>"
    assert engine.prompts[1] == engine.prompts[0] + question.text + "<|end|><|assistant|>"
    assert engine.prompts[2] == engine.prompts[1] + answer.text + "<|end|><|user|>"
    assert engine.prompts[3] == engine.prompts[2] + follow_up.text + "<|end|><|assistant|>"


def test_exact_duplicates_are_drawn_again_and_counted(tokenizer, scripted):
    tree = _grow(
        _plan(children=(5, 1), max_tokens=(16, 16)), scripted(lambda _, seed: (f"{'Why?!' if seed % 3 else seed}", "stop")), tokenizer
    )
    questions = [node.text for node in tree.nodes if node.layer == 0]
    counts = tree.layers[0]
    assert len(questions) == 5
    assert questions.count("Why?!") == 1
    assert counts["dropped"]["exact_duplicate"] == counts["sampled"] - 5
    assert len(counts["rounds"]) > 1


def test_near_duplicates_are_found_by_their_vectors_and_the_first_stays(tokenizer, scripted):
    vectors = {"alpha": (1.0, 0.0), "beta": (0.995, 0.0999), "gamma": (0.0, 1.0)}
    words = iter(["alpha", "beta", "gamma"] * 9)
    engine = scripted(lambda *_: (next(words), "stop"))
    plan = _plan(children=(3, 1), max_tokens=(9, 9), max_rounds=1, dedup={"near": "states", "threshold": 0.975})
    tree = _grow(plan, engine, tokenizer, embed=lambda texts: np.array([vectors[text] for text in texts], np.float32))
    assert [node.text for node in tree.nodes if node.layer == 0] == ["alpha", "gamma"]
    assert tree.layers[0]["dropped"] == {"near_duplicate": 1}


def test_near_duplicates_need_vectors(tokenizer, scripted):
    with pytest.raises(ValueError, match=r"tree\.dedup\.near"):
        _grow(_plan(dedup={"near": "states"}), scripted(_unlike), tokenizer)


def test_siblings_alone_are_compared_unless_the_scope_is_the_layer(tokenizer, scripted):
    def follow_ups_repeat(prompt, seed):
        return ("Why?" if prompt.count("<|user|>") == 2 and prompt.endswith("<|user|>") else str(seed)), "stop"

    plan = _plan(children=(3, 1, 1, 1))
    assert len(_grow(plan, scripted(follow_ups_repeat), tokenizer).nodes) == 12
    over_layer = _plan(children=(3, 1, 1, 1), dedup={"near": "none", "scope": "layer"})
    assert sum(node.layer == 2 for node in _grow(over_layer, scripted(follow_ups_repeat), tokenizer).nodes) == 1


def test_equal_answers_to_different_questions_are_no_duplicates(tokenizer, scripted):
    plan = _plan(children=(4, 1), max_tokens=(9, 9), dedup={"near": "none", "scope": "layer"})
    tree = _grow(plan, scripted(lambda prompt, seed: ("Yes." if "<|assistant|>" in prompt else str(seed), "stop")), tokenizer)
    assert [node.text for node in tree.nodes if node.layer == 1] == ["Yes."] * 4


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("cut off in the", "length", "unfinished"),
        (" .", "stop", "empty"),
        ("Hi<|user|>and you?", "stop", "role_leak"),
        ("What is <image>?", "stop", "role_leak"),
    ],
)
def test_useless_turns_are_dropped_and_counted(tokenizer, scripted, text, finish, reason):
    engine = scripted(lambda _, seed: (text, finish) if seed % 2 else (str(seed), "stop"))
    tree = _grow(_plan(children=(20, 1), max_tokens=(9, 9), max_rounds=1), engine, tokenizer)
    layer = tree.layers[0]
    assert layer["dropped"][reason] > 0
    assert layer["kept"] + layer["dropped"][reason] == layer["sampled"] == 20


def test_every_sampled_turn_is_kept_or_counted_as_dropped(tokenizer, scripted):
    tree = _grow(_plan(children=(30, 1, 3, 1)), scripted(lambda _, seed: (str(seed % 7), "length" if seed % 5 == 0 else "stop")), tokenizer)
    for layer in tree.layers:
        assert layer["sampled"] == layer["kept"] + sum(layer["dropped"].values())


def test_a_model_that_has_said_all_is_asked_no_further(tokenizer, scripted):
    tree = _grow(_plan(children=(100, 1), max_tokens=(9, 9), max_rounds=99), scripted(lambda *_: ("Why?", "stop")), tokenizer)
    assert tree.layers[0]["rounds"] == [{"sampled": 100, "kept": 1}]


def test_greedy_answers_are_never_asked_for_twice(tokenizer, scripted):
    engine = scripted(lambda prompt, seed: ("no end", "length") if "<|assistant|>" in prompt else (str(seed), "stop"))
    tree = _grow(_plan(children=(3, 1), max_tokens=(9, 9)), engine, tokenizer)
    assert tree.layers[1]["sampled"] == 3
    assert tree.layers[1]["dropped"] == {"unfinished": 3}


def test_each_nodes_seed_depends_on_plan_parent_and_attempt_alone(tokenizer, scripted):
    small = _grow(_plan(children=(2, 1), max_tokens=(9, 9)), scripted(_unlike), tokenizer)
    large = _grow(_plan(children=(4, 1), max_tokens=(9, 9)), scripted(_unlike), tokenizer)
    other = _grow(_plan(children=(4, 1), max_tokens=(9, 9), seed=1), scripted(_unlike), tokenizer)
    assert [n.seed for n in small.nodes if n.layer == 0] == [n.seed for n in large.nodes if n.layer == 0][:2]
    assert not {n.seed for n in large.nodes} & {n.seed for n in other.nodes}


class Stopped(Exception):
    pass


def _stop_in_layer(number):
    state = {"done": 0}

    def script(prompt, seed):
        if prompt.count("<|user|>") + prompt.count("<|assistant|>") == number:
            raise Stopped
        state["done"] += 1
        return _unlike(prompt, seed)

    return script


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_interrupted_growth_goes_on_from_the_last_finished_layer(tokenizer, scripted, tmp_path, layer):
    from data.trees.folder import TreeFolder

    undisturbed = _grow(_plan(), scripted(_unlike), tokenizer)
    with pytest.raises(Stopped):
        _grow(_plan(), scripted(_stop_in_layer(layer)), tokenizer, folder=TreeFolder(tmp_path, {"plan": 1}, {}))
    engine = scripted(_unlike)
    resumed = _grow(_plan(), engine, tokenizer, folder=TreeFolder(tmp_path, {"plan": 1}, {}))
    assert resumed.nodes == undisturbed.nodes
    assert engine.calls == 4 - (layer - 1)


def test_nodes_of_an_interrupted_commit_are_grown_again_not_doubled(tokenizer, scripted, tmp_path):
    from data.trees.folder import TreeFolder

    whole = _grow(_plan(), scripted(_unlike), tokenizer, folder=TreeFolder(tmp_path, {}, {}))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["layers"].pop()  # as if the power had gone between tree.jsonl and manifest.json
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    again = _grow(_plan(), scripted(_unlike), tokenizer, folder=TreeFolder(tmp_path, {}, {}))
    assert again.nodes == whole.nodes
    assert len((tmp_path / "tree.jsonl").read_text().splitlines()) == 18


def test_a_folder_with_another_tree_is_not_touched(tokenizer, scripted, tmp_path):
    from data.trees.folder import TreeFolder

    _grow(_plan(), scripted(_unlike), tokenizer, folder=TreeFolder(tmp_path, {"plan": {"seed": 0}}, {}))
    before = (tmp_path / "tree.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"plan\.seed: 0 before, 1 now"):
        TreeFolder(tmp_path, {"plan": {"seed": 1}}, {})
    assert (tmp_path / "tree.jsonl").read_bytes() == before


def test_lost_nodes_are_noticed(tokenizer, scripted, tmp_path):
    from data.trees.folder import TreeFolder

    _grow(_plan(), scripted(_unlike), tokenizer, folder=TreeFolder(tmp_path, {}, {}))
    (tmp_path / "tree.jsonl").write_text("")
    with pytest.raises(ValueError, match="0 nodes"):
        TreeFolder(tmp_path, {}, {})
