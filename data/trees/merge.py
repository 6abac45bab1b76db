"""Parts of a tree that grew apart become one tree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.trees.dedup import Deduplicator
from data.trees.folder import TreeFolder, differences, read_manifest, read_shards
from data.trees.nodes import root_number
from data.trees.shards import Shard, Tally

PARTS = "parts"


def part_folder(output: str | Path, part: int, parts: int) -> Path:
    """Where a part grows, inside the folder of the whole tree."""
    return Path(output) / PARTS / f"{part:04d}-of-{parts:04d}"


def find_parts(output: str | Path) -> list[Path]:
    """The folders of all parts below the folder of the whole tree, in order.

    Raises:
        ValueError: There are none, one is missing or still growing, or they are of different plans.
    """
    found = sorted(path for path in (Path(output) / PARTS).glob("*-of-*") if path.is_dir())
    if not found:
        raise ValueError(f"{Path(output) / PARTS} holds no parts; grow them first: perennial generate RECIPE --part 0/8, 1/8, ...")
    totals = {path.name.partition("-of-")[2] for path in found}
    if len(totals) > 1:
        raise ValueError(f"{Path(output) / PARTS} holds parts of several divisions ({', '.join(sorted(totals))}); delete those not meant")
    missing = sorted(set(range(int(totals.pop()))) - {int(path.name.partition("-of-")[0]) for path in found})
    manifests = {path: read_manifest(path) for path in found}
    growing = [path.name for path, manifest in manifests.items() if manifest["status"] != "complete"]
    if missing or growing:
        said = [f"part {number} is missing" for number in missing[:5]] + [f"part {name} is still growing" for name in growing[:5]]
        raise ValueError(f"{Path(output) / PARTS}: {'; '.join(said)}; grow them to their end, then merge")
    different = [path.name for path, manifest in manifests.items() if common(manifest) != common(manifests[found[0]])]
    if different:
        raise ValueError(f"{Path(output) / PARTS}: {', '.join(different[:5])} grew from another plan or model than {found[0].name}")
    return found


def check_plan(settings: Mapping[str, Any], extent: Mapping[str, Any], parts: Sequence[Path]) -> None:
    """Raises where the parts grew by another plan than the one by which they are to be merged, or not equally far."""
    for part in parts:
        manifest = read_manifest(part)
        own = {name: value for name, value in manifest["identity"]["plan"].items() if name not in ("part", "parts")}
        changed = differences(own, {name: value for name, value in settings.items() if name not in ("part", "parts")})
        changed += differences({"layers": manifest["extents"][-1]["layers"]}, {"layers": extent["layers"]})
        if changed:
            raise ValueError(f"{part} grew by another plan: {'; '.join(changed)}. Give the recipe and the options by which the parts grew")


def common(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What all parts of one tree share of their identity."""
    identity = dict(manifest["identity"])
    return identity | {"plan": {name: value for name, value in identity["plan"].items() if name != "part"}}


def merge(parts: Sequence[Path], folder: TreeFolder, dedup: Deduplicator) -> None:
    """Commits the nodes of all parts to a folder that was begun; what an interrupted merge left in it is written again.

    Ids of different parts never meet. Of first questions that repeat one another the one of the lower part stays; the other is left
    out with all below it, counted as dropped.
    """
    folder.clear()
    repeated: set[int] = set()
    for part in parts:
        for shard in read_shards(part):
            roots = [node for node in shard.nodes if node.parent is None]
            verdicts = dedup.offer([""] * len(roots), [node.text for node in roots])
            repeated |= {root_number(node.id) for node, verdict in zip(roots, verdicts, strict=True) if verdict is not None}
            folder.commit(_without(shard, repeated, f"p{part.name.partition('-of-')[0]}-g{shard.growth:02d}-{shard.stage}"))


def _without(shard: Shard, roots: set[int], stage: str) -> Shard:
    nodes = tuple(node for node in shard.nodes if root_number(node.id) not in roots)
    tallies: dict[int, Tally] = {}
    for layer, tally in shard.tallies.items():
        gone = sum(node.layer == layer for node in shard.nodes) - sum(node.layer == layer for node in nodes)
        dropped = tally.dropped.copy()
        if gone:
            dropped["repeats_another_part"] += gone
        tallies[layer] = replace(tally, kept=tally.kept - gone, dropped=dropped)
    return replace(shard, growth=0, stage=stage, tallies=tallies, nodes=nodes)
