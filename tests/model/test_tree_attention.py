"""Dialogues of a tree in one row: the same numbers as each path alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from packed_rows import Case, Sample, alone, assert_equal_gradients, cases, forward, gradients, loss_of
from torch.nn import functional

from model.attention import use


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
