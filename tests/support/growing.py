"""A small tree folder, written without a model."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from data.trees.folder import TreeFolder
from data.trees.nodes import Node, child_id
from data.trees.shards import Shard, Tally, stage_name

WORDS = ("red circles", "a blue square", "two plus five", "a warm cave", "the picture")


def write_tree(path: Path, children: Sequence[int], *, without: Collection[str] = (), system: str | None = None) -> Path:
    """A complete tree folder; its turns are short, each with the node's id as its last word.

    Args:
        path: The folder.
        children: Of each node, layer by layer.
        without: Ids of nodes that were dropped with all below them.
        system: The dialogues' system prompt.
    """
    folder = TreeFolder(path, {}, {"sizes": []}, {})
    folder.begin()
    parents: list[str | None] = [None]
    for layer, number in enumerate(children):
        names = [name for parent in parents for name in (child_id(parent, one) for one in range(number)) if name not in without]
        nodes = tuple(_nodes(names, layer, system))
        stage, tallies = stage_name(layer, 0), {layer: Tally(sampled=len(nodes), kept=len(nodes), tokens=len(nodes))}
        folder.commit(Shard(growth=0, stage=stage, block=0, tallies=tallies, attempts={}, seconds=0.0, nodes=nodes))
        parents = list(names)
    folder.finish()
    folder.close()
    return path


def _nodes(names: Sequence[str], layer: int, system: str | None) -> Iterator[Node]:
    for number, name in enumerate(names):
        thing = WORDS[number % len(WORDS)]
        yield Node(
            id=name,
            parent=name.rpartition(".")[0] or None,
            layer=layer,
            role="assistant" if layer % 2 else "user",
            text=f"{'There is' if layer % 2 else 'Where is'} {thing} {name}",
            tokens=1,
            seed=0,
            logprob=0.0,
            finish_reason="stop",
            system=None if layer else system,
        )
