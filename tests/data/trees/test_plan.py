import pytest
from pydantic import ValidationError

from data.trees.plan import TreeConfig


def test_a_balance_tree_has_as_many_nodes_as_the_definition_says():
    plan = TreeConfig(shape="balance", children=(100, 1, 10, 1, 10, 1))
    assert plan.layer_sizes == (100, 100, 1000, 1000, 10_000, 10_000)
    assert (plan.nodes, plan.dialogues) == (22_200, 10_000)


@pytest.mark.parametrize(("shape", "nodes"), [("wide", 4000), ("balance", 2200), ("single", 2000)])
def test_each_shape_brings_children_for_a_thousand_dialogues(shape, nodes):
    plan = TreeConfig(shape=shape)
    assert (plan.dialogues, plan.nodes) == (1000, nodes)


def test_turn_lengths_follow_the_roles_when_none_are_given():
    assert TreeConfig(children=(3, 1, 2, 1)).max_tokens == (64, 256, 64, 256)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "children is missing"),
        ({"children": (3,)}, "children has 1 layers"),
        ({"children": (3, 1), "max_tokens": (8, 8, 8, 8)}, "children has 2 layers, max_tokens 4"),
        ({"children": (3, 0)}, "layer 2 is 0"),
        ({"shape": "single", "children": (3, 1, 1, 1)}, "shape single has one round"),
        ({"shape": "wide", "children": (3, 1, 2, 1)}, "branches in layer 3"),
        ({"shape": "balance", "children": (3, 1, 1, 1)}, "shape balance branches below layer 2"),
        ({"children": (3, 2)}, "several greedy answers"),
        ({"children": (3, 1), "tempreature": 1.0}, "tempreature"),
    ],
)
def test_an_inconsistent_plan_is_refused_with_its_reason(values, message):
    with pytest.raises(ValidationError, match=message):
        TreeConfig(**values)


def test_new_children_keep_the_turn_lengths_and_drop_the_shape():
    plan = TreeConfig(shape="single", children=(9, 1), max_tokens=(5, 7)).with_children((4, 1, 2, 1))
    assert (plan.shape, plan.children, plan.max_tokens) == (None, (4, 1, 2, 1), (5, 7, 5, 7))


def test_new_children_are_checked_as_well():
    with pytest.raises(ValidationError, match="even number"):
        TreeConfig(children=(9, 1)).with_children((4, 1, 2))


def test_each_measure_of_likeness_brings_its_own_threshold():
    assert TreeConfig(shape="single").dedup.threshold == 0.9
    assert TreeConfig(shape="single", dedup={"near": "states"}).dedup.threshold == 0.975
    assert TreeConfig(shape="single", dedup={"near": "states", "threshold": 0.5}).dedup.threshold == 0.5
