import json

import pytest

from data.trees.export import choose, paths, to_llava
from data.trees.nodes import Node


def _node(path, text="text"):
    layer = path.count(".")
    role = "assistant" if layer % 2 else "user"
    parent = path.rpartition(".")[0] or None
    return Node(id=path, parent=parent, layer=layer, role=role, text=text, tokens=1, seed=0, logprob=0.0, finish_reason="stop")


def _tree(*ids):
    return [_node(path, f"text {path}") for path in sorted(ids, key=lambda one: one.count("."))]


def test_each_leaf_answer_makes_one_dialogue():
    nodes = _tree("0", "0.0", "0.0.0", "0.0.1", "0.0.0.0", "0.0.1.0")
    assert [[node.id for node in path] for path in paths(nodes)] == [["0", "0.0", "0.0.0", "0.0.0.0"], ["0", "0.0", "0.0.1", "0.0.1.0"]]


def test_unanswered_questions_end_no_dialogue_but_the_round_before_does():
    nodes = _tree("0", "0.0", "0.0.0", "1")
    assert [[node.id for node in path] for path in paths(nodes)] == [["0", "0.0"]]


def test_a_dialogue_has_exactly_the_fields_of_llava():
    (path,) = paths(_tree("0", "0.0"))
    assert to_llava(path) == {
        "id": "0.0",
        "conversations": [{"from": "human", "value": "text 0"}, {"from": "gpt", "value": "text 0.0"}],
    }


def test_a_system_prompt_leads_the_dialogue():
    (path,) = paths(_tree("0", "0.0"))
    assert to_llava(path, "Be kind.")["conversations"][0] == {"from": "system", "value": "Be kind."}


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_the_export_is_read_back_as_it_was_grown(tmp_path, system):
    from data.readers import read

    nodes = _tree("0", "0.0", "0.0.0", "0.0.0.0")
    file = tmp_path / "dialogues.json"
    file.write_text(json.dumps([to_llava(path, system) for path in paths(nodes)]))
    (dialogue,) = read(file)
    turns = [turn for turn in dialogue.turns if turn.role != "system"]
    assert [(turn.role, turn.text) for turn in turns] == [(node.role, node.text) for node in nodes]
    assert dialogue.id == "0.0.0.0"


def test_a_sample_is_drawn_by_its_seed_without_repeats():
    dialogues = list(paths(_tree(*[str(n) for n in range(50)], *[f"{n}.0" for n in range(50)])))
    chosen = choose(dialogues, 10, seed=3)
    ids = [path[-1].id for path in chosen]
    assert len(set(ids)) == 10
    assert ids == [path[-1].id for path in choose(dialogues, 10, seed=3)]
    assert ids != [path[-1].id for path in choose(dialogues, 10, seed=4)]
    assert choose(dialogues, 99, seed=0) == dialogues
