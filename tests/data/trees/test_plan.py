import pytest
from pydantic import ValidationError

from data.trees.plan import TreeConfig


def test_a_balance_tree_has_as_many_nodes_as_the_definition_says():
    plan = TreeConfig(shape="balance", children=(100, 1, 10, 1, 10, 1))
    assert plan.layer_sizes == (100, 100, 1000, 1000, 10_000, 10_000)
    assert (plan.nodes, plan.dialogues) == (22_200, 10_000)


@pytest.mark.parametrize(("shape", "nodes"), [("wide", 4000), ("balance", 2200), ("single", 2000), ("talk", 6000)])
def test_each_shape_brings_children_for_a_thousand_dialogues(shape, nodes):
    plan = TreeConfig(shape=shape)
    assert (plan.dialogues, plan.nodes) == (1000, nodes)


def _of_layers(plan, name):
    return [plan.of(name, layer) for layer in range(plan.depth)]


def test_one_value_holds_for_every_layer_two_for_questions_and_answers_more_for_each_layer():
    plan = TreeConfig(children=(3, 1, 2, 1), max_tokens=7, temperature=(0.5, 0.0), top_p=(0.1, 0.2, 0.3, 0.4))
    assert _of_layers(plan, "max_tokens") == [7, 7, 7, 7]
    assert _of_layers(plan, "temperature") == [0.5, 0.0, 0.5, 0.0]
    assert _of_layers(plan, "top_p") == [0.1, 0.2, 0.3, 0.4]


def test_talks_are_sampled_as_self_dialogues_are():
    plan = TreeConfig(shape="talk")
    assert (set(_of_layers(plan, "temperature")), set(_of_layers(plan, "top_p"))) == ({0.7}, {0.9})


def test_what_the_recipe_says_stands_above_what_the_shape_brings():
    assert TreeConfig(shape="talk", temperature=1.0, children=(5, 1)).of("temperature", 0) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "children is missing"),
        ({"children": (3,)}, "children has 1 layers"),
        ({"children": (3, 1), "max_tokens": (8, 8, 8, 8)}, "children has 2 layers, max_tokens 4 values"),
        ({"children": (3, 1, 1, 1), "temperature": (1, 1, 1)}, "children has 4 layers, temperature 3 values"),
        ({"children": (3, 1), "top_p": 0.0}, "top_p"),
        ({"children": (3, 0)}, "layer 2 is 0"),
        ({"shape": "single", "children": (3, 1, 1, 1)}, "shape single has one round"),
        ({"shape": "wide", "children": (3, 1, 2, 1)}, "branches in layer 3"),
        ({"shape": "talk", "children": (3, 2, 1, 1)}, "does in layer 2"),
        ({"shape": "balance", "children": (3, 1, 1, 1)}, "shape balance branches below layer 2"),
        ({"children": (3, 2)}, "several greedy turns below one prompt in layer 2"),
        ({"children": (3, 1), "ends": 0.5}, "ends"),
        ({"children": (3, 1, 1, 1, 1, 1), "ends": (0.6, 0.6)}, "ends"),
        ({"children": (3, 1), "part": 2, "parts": 2}, "counted from 0"),
        ({"children": (3, 1), "parts": 4}, "there are 3 first questions"),
        ({"children": (3, 1), "system": ("", "Be kind.")}, "a system prompt is empty"),
        ({"children": (3, 1), "dedup": {"threshold": None}}, "embeddings is none"),
        ({"corpus": {"path": "x.json"}, "parts": 2}, "corpus takes dialogues that exist"),
        ({"children": (3, 1), "topic_prompt": "About?"}, "topic_prompt"),
        ({"children": (3, 1), "topics": "nowhere.txt"}, "there is no file nowhere.txt"),
        ({"corpus": {"path": "x.json"}, "shape": "wide"}, "corpus takes dialogues that exist"),
        ({"children": (3, 1), "tempreature": 1.0}, "tempreature"),
        ({"children": (3, 1), "engine": {"kind": "endpoint"}}, "url"),
    ],
)
def test_an_inconsistent_plan_is_refused_with_its_reason(values, message):
    with pytest.raises(ValidationError, match=message):
        TreeConfig(**values)


def test_new_children_keep_what_was_given_layer_by_layer_and_drop_the_shape():
    plan = TreeConfig(shape="wide", children=(9, 1, 1, 1), max_tokens=(5, 7, 6, 8)).with_children((4, 1, 2, 1, 2, 1))
    assert (plan.shape, plan.children, plan.max_tokens) == (None, (4, 1, 2, 1, 2, 1), (5, 7, 6, 8, 6, 8))


def test_new_children_are_checked_as_well():
    with pytest.raises(ValidationError, match="even number"):
        TreeConfig(children=(9, 1)).with_children((4, 1, 2))


def test_the_planned_share_of_dialogues_ends_after_each_round():
    plan = TreeConfig(children=(100, 1, 3, 1, 1, 1), ends=(0.25, 0.5))
    depths = [plan.layers_of(root) for root in range(100)]
    assert [depths.count(layers) for layers in (2, 4, 6)] == [25, 50, 25]
    assert plan.layer_sizes == (100, 100, 225, 225, 75, 75)
    assert plan.dialogues == 25 + 50 * 3 + 25 * 3


def test_what_ends_after_no_named_round_goes_on_to_the_last_layer():
    assert TreeConfig(children=(100, 1, 1, 1, 1, 1), ends=0.25).layer_sizes == (100, 100, 75, 75, 75, 75)


def test_where_a_dialogue_ends_does_not_change_when_the_plan_grows():
    small, large = (TreeConfig(children=(size, 1, 1, 1), ends=0.4) for size in (10, 1000))
    assert [small.layers_of(root) for root in range(10)] == [large.layers_of(root) for root in range(10)]


def test_topics_can_stand_in_a_file_one_a_line(tmp_path):
    (tmp_path / "topics.txt").write_text("\ufeffwhales\n\n  the sea \n")
    assert TreeConfig(children=(3, 1), topics=str(tmp_path / "topics.txt")).topics == ("whales", "the sea")


@pytest.mark.parametrize("more", [{}, {"system": ("a", "b"), "topics": ("x", "y", "z")}, {"ends": 0.3}])
def test_parts_share_the_first_questions_out_without_remainder(more):
    whole = TreeConfig(children=(101, 1, 2, 1), **more)
    parts = [TreeConfig(children=(101, 1, 2, 1), part=part, parts=4, **more) for part in range(4)]
    roots = [place + part.cycle * number for part in parts for place in part.places() for number in range(part.quota(place))]
    assert sorted(roots) == list(range(101))
    assert sum(part.layer_sizes[0] for part in parts) == whole.layer_sizes[0] == 101


def test_sizes_of_the_dry_run_are_those_of_the_exported_sample():
    assert TreeConfig(children=(100, 1), export={"sample": 7}).summary()["dialogues"] == 7
