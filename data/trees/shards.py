"""A shard: the nodes of one block of work, committed together."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.atomic import write_lines
from data.trees.nodes import Node, Tree, in_order


@dataclass(kw_only=True)
class Tally:
    """What became of the turns of one layer in one block.

    Attributes:
        sampled: Turns written.
        kept: Of them, those that became nodes.
        dropped: The others, by reason.
        tokens: Tokens of all turns written.
    """

    sampled: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One block of work that is done.

    Attributes:
        growth: How many times the plan had been extended when it was written.
        stage: Part of the growth: layer and round.
        block: Number within the stage.
        tallies: What was written, by layer.
        attempts: Turns asked for, by the name of the place below which they were to stand.
        seconds: How long the block took.
        nodes: What was kept, in order.
    """

    growth: int
    stage: str
    block: int
    tallies: Mapping[int, Tally]
    attempts: Mapping[str, int]
    seconds: float
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """File name; in the order of these names the shards were written."""
        return f"g{self.growth:02d}-{self.stage}-b{self.block:06d}.jsonl"


def stage_name(layer: int, round: int) -> str:
    """Name of a layer's round of sampling."""
    return f"l{layer:02d}-r{round:03d}"


def write(shard: Shard, folder: Path) -> None:
    """Commits a shard: afterwards the file is there whole, before it is not there at all."""
    head = {
        "growth": shard.growth,
        "stage": shard.stage,
        "block": shard.block,
        "tallies": {str(layer): vars(tally) for layer, tally in shard.tallies.items()},
        "attempts": dict(shard.attempts),
        "seconds": round(shard.seconds, 3),
        "nodes": len(shard.nodes),
    }
    write_lines(folder / shard.name, (json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *map(Node.record, shard.nodes))))


def read(path: Path) -> Shard:
    """Reads a shard.

    Raises:
        ValueError: The file was changed after it was written.
    """
    try:
        head, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # not splitlines: texts may hold U+2028
        found = json.loads(head)
        nodes = tuple(Node(**json.loads(line)) for line in lines)
        shard = Shard(
            growth=found["growth"],
            stage=found["stage"],
            block=found["block"],
            tallies={int(layer): _tally(values) for layer, values in found["tallies"].items()},
            attempts=found["attempts"],
            seconds=found["seconds"],
            nodes=nodes,
        )
        if len(nodes) != found["nodes"]:
            raise ValueError(f"{len(nodes)} nodes, its first line says {found['nodes']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no shard as it was written ({error}); delete it: the same command grows its turns again") from error
    return shard


def _tally(values: Mapping[str, Any]) -> Tally:
    return Tally(**{**values, "dropped": Counter(values["dropped"])})


def tree_of(shards: Sequence[Shard], planned: Sequence[int]) -> Tree:
    """The nodes of all shards in order, with the counts of each layer; `planned` nodes by layer."""
    return Tree(nodes=tuple(in_order(node for shard in shards for node in shard.nodes)), layers=_counts(shards, planned))


def _counts(shards: Iterable[Shard], planned: Sequence[int]) -> tuple[dict[str, Any], ...]:
    """For each layer what was planned, sampled, kept, dropped by reason; `rounds` and `blocks` tell the yield in the order of writing."""
    layers: dict[int, dict[str, Any]] = {}
    rounds: dict[int, dict[tuple[int, str], dict[str, int]]] = {}
    for shard in shards:
        for layer, tally in shard.tallies.items():
            counted = layers.setdefault(layer, _empty(layer, planned))
            counted["sampled"] += tally.sampled
            counted["kept"] += tally.kept
            counted["tokens"] += tally.tokens
            counted["seconds"] += shard.seconds / len(shard.tallies)
            counted["dropped"].update(tally.dropped)
            counted["blocks"].append({"sampled": tally.sampled, "kept": tally.kept})
            one = rounds.setdefault(layer, {}).setdefault((shard.growth, shard.stage), {"sampled": 0, "kept": 0})
            one["sampled"] += tally.sampled
            one["kept"] += tally.kept
    for layer, counted in layers.items():
        counted["dropped"] = dict(sorted(counted["dropped"].items()))
        counted["rounds"] = list(rounds[layer].values())
        counted["seconds"] = round(counted["seconds"], 3)
    return tuple(counted for _, counted in sorted(layers.items()))


def _empty(layer: int, planned: Sequence[int]) -> dict[str, Any]:
    return {
        "layer": layer,
        "role": "assistant" if layer % 2 else "user",
        "planned": planned[layer] if layer < len(planned) else None,
        "sampled": 0,
        "kept": 0,
        "dropped": Counter(),
        "rounds": [],
        "blocks": [],
        "tokens": 0,
        "seconds": 0.0,
    }
