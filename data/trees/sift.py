"""An external corpus goes through the filters that a grown tree goes through."""

import itertools
import time
from collections.abc import Iterable, Sequence

from data.trees.dedup import Deduplicator
from data.trees.filters import Filters
from data.trees.folder import TreeFolder
from data.trees.nodes import Node
from data.trees.shards import Shard, Tally

BLOCK = 512  # dialogues committed together
STAGE = "corpus"


def sift(dialogues: Iterable[Sequence[Node]], filters: Filters, dedup: Deduplicator, folder: TreeFolder) -> None:
    """Commits the dialogues of a corpus that are of use, as chains of nodes.

    A dialogue ends before its first round with a turn that a filter drops; one whose first question repeats an earlier one's is dropped
    whole. Blocks that the folder holds already are taken from it.
    """
    done = {shard.block: shard for shard in folder.stage(STAGE)}
    for number, block in enumerate(iter_blocks(dialogues, BLOCK)):
        if number in done:
            roots = [node.text for node in done[number].nodes if node.parent is None]
            dedup.remember([""] * len(roots), roots)
            continue
        start = time.perf_counter()
        tallies: dict[int, Tally] = {}
        useful = [kept for kept in (_useful(path, filters, tallies) for path in block) if kept]
        nodes: list[Node] = []
        for path, verdict in zip(useful, dedup.offer([""] * len(useful), [path[0].text for path in useful]), strict=True):
            for node in path:
                tally = tallies[node.layer]
                if verdict is None:
                    tally.kept += 1
                    nodes.append(node)
                else:
                    tally.dropped[verdict if node.parent is None else "dropped_question"] += 1
        shard = Shard(
            growth=folder.growth,
            stage=STAGE,
            block=number,
            tallies=tallies,
            attempts={},
            seconds=time.perf_counter() - start,
            nodes=tuple(nodes),
        )
        folder.commit(shard)


def _useful(path: Sequence[Node], filters: Filters, tallies: dict[int, Tally]) -> list[Node]:
    """The rounds before the first one with a useless turn; counts all turns, drops included."""
    reasons = [filters.reason(node.role, node.text, node.finish_reason) for node in path]
    first = next((place for place, reason in enumerate(reasons) if reason is not None), len(path))
    end = first - first % 2
    for place, (node, reason) in enumerate(zip(path, reasons, strict=True)):
        tally = tallies.setdefault(node.layer, Tally())
        tally.sampled += 1
        tally.tokens += node.tokens
        if place >= end:
            tally.dropped[reason or "broken_dialogue"] += 1
    return list(path[:end])


def iter_blocks(dialogues: Iterable[Sequence[Node]], size: int) -> Iterable[list[Sequence[Node]]]:
    """Runs of `size` dialogues; the last may be shorter."""
    rest = iter(dialogues)
    while block := list(itertools.islice(rest, size)):
        yield block
