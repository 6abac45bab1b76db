"""Growth of a tree, breadth first, one layer after the other."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from data.trees.dedup import Deduplicator, normalise
from data.trees.engine import Completion, Engine, Request, Sampling, node_seed
from data.trees.filters import Filters
from data.trees.folder import TreeFolder
from data.trees.nodes import Node, child_id, in_order, root_number
from data.trees.openers import Openers
from data.trees.openers import requests as as_requests
from data.trees.plan import TreeConfig
from data.trees.shards import Shard, Tally, stage_name


class Progress(Protocol):
    """What growth tells while it goes on."""

    def expect(self, turns: int) -> None:
        """More turns (fewer, when negative) than planned will be written."""

    def advance(self, layer: int, sampled: int, kept: int, tokens: int, *, before: bool = False) -> None:
        """A block is committed; `before`: in an earlier process."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a growth works with.

    Attributes:
        engine: Runs the model.
        tokenizer: Turns prompts into ids.
        openers: How the template opens and ends turns; made for every system prompt in `root_system`.
        filters: Which turns are of no use.
        dedup: A new, empty one each time it is called; one is used for each layer.
        progress: Told about each block.
    """

    engine: Engine
    tokenizer: Any
    openers: Openers
    filters: Filters
    dedup: Callable[[], Deduplicator]
    progress: Progress | None = None


def grow(plan: TreeConfig, tools: Tools, folder: TreeFolder) -> None:
    """Grows a tree in a folder that was begun; only what the folder does not hold yet. It ends early where a layer stays empty.

    Every node's prompt is its parent's prompt, the parent's text, then the opener of its own role (arXiv 2406.11354). Turns that a filter
    drops or that repeat another one are counted; sampled turns are drawn again until the quota is full, `max_rounds` are over or a
    round yields less than `min_yield`. The work is cut into blocks, which follow from the plan and from what is committed; a block is
    committed when all of it is judged. Blocks that the folder holds already are taken from it, so a growth that was killed ends in the tree
    of one that was not, as far as the engine repeats itself.
    """
    growth = _Growth(plan, tools, folder)
    for layer in range(plan.depth):
        growth.layer(layer)


def first_questions(plan: TreeConfig, tools: Tools, most: int = 2000) -> list[str]:
    """One round of first questions that pass the filters, exact duplicates left out: a sample on which to choose a threshold."""
    roots = [root for place in plan.places() for root in range(place, plan.children[0], plan.cycle)][:most]
    prompts = [tools.openers.roots[root_system(plan, root)] for root in roots]
    seeds = [node_seed(plan.seed, root_name(plan, root), root // plan.cycle) for root in roots]
    asked = as_requests(prompts, seeds, tools.tokenizer)
    size = tools.engine.block_size
    blocks = (asked[first : first + size] for first in range(0, len(asked), size))
    written = [one for block in tools.engine.complete(blocks, sampling(plan, tools.openers, 0)) for one in block]
    useful = [one.text.strip() for one in written if tools.filters.reason("user", one.text.strip(), one.finish_reason) is None]
    return list({normalise(text): text for text in reversed(useful)}.values())[::-1]


@dataclass(frozen=True)
class _Place:
    """Where turns are to stand: below a parent, or below a root prompt."""

    name: str
    parent: Node | None
    quota: int
    root: int = 0  # number of the first question here; only without a parent


@dataclass
class _Growth:
    plan: TreeConfig
    tools: Tools
    folder: TreeFolder
    nodes: dict[str, Node] = field(default_factory=dict)
    children: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    layers: defaultdict[int, list[Node]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for shard in self.folder.earlier:
            self._take(shard)

    def layer(self, number: int) -> None:
        """Fills a layer's places as far as they can be filled."""
        places = self._places(number)
        self._expect(sum(map(self._missing, places)) - self.plan.layer_sizes[number])
        sampled = self.plan.of("temperature", number) > 0
        judge = _Judge(self, number)
        for attempt in range(self.plan.max_rounds if sampled else 1):
            open_places = [place for place in places if self._missing(place) and (sampled or not self.attempts[place.name])]
            wanted = sum(map(self._missing, open_places))
            if not wanted:
                break
            self._expect(wanted if attempt else 0)
            self._round(number, attempt, open_places, judge)
            kept = wanted - sum(map(self._missing, open_places))
            floor = self.plan.min_yield * wanted
            if floor >= 1 and kept < floor:  # in a round so small that the floor is below one turn, chance decides
                break
        self.folder.note_recall(number, judge.recall())

    def _places(self, number: int) -> list[_Place]:
        if number == 0:
            return [_Place(root_name(self.plan, root), None, self.plan.quota(root), root=root) for root in self.plan.places()]
        parents = [node for node in in_order(self.layers[number - 1]) if self.plan.layers_of(root_number(node.id)) > number]
        return [_Place(node.id, node, self.plan.children[number]) for node in parents]

    def _missing(self, place: _Place) -> int:
        return max(0, place.quota - self.children[place.name])

    def _round(self, number: int, attempt: int, places: Sequence[_Place], judge: "_Judge") -> None:
        """Draws what is missing everywhere."""
        stage = stage_name(number, attempt)
        turns = [(place, self.attempts[place.name] + k) for place in places for k in range(self._missing(place))]
        # Prompts of like length side by side: little padding; stable, so siblings stay together and share what was read of their prompt.
        lengths = {place.name: sum(node.tokens for node in self._path(place.parent)) for place in places}
        turns.sort(key=lambda turn: lengths[turn[0].name])
        done, committed = Counter[str](), self.folder.stage(stage)
        for shard in committed:
            done.update(shard.attempts)
            self._take(shard)
            self._advance(number, shard, before=True)
        turns, size = _without(turns, done), self.tools.engine.block_size
        blocks = [turns[start : start + size] for start in range(0, len(turns), size)]
        if blocks:
            start = time.perf_counter()
            written = self.tools.engine.complete(
                (self._requests(block) for block in blocks), sampling(self.plan, self.tools.openers, number)
            )
            for block_number, (block, completions) in enumerate(zip(blocks, written, strict=True), start=len(committed)):
                nodes, tally = judge.judge(block, completions)
                shard = Shard(
                    growth=self.folder.growth,
                    stage=stage,
                    block=block_number,
                    tallies={number: tally},
                    attempts=Counter(place.name for place, _ in block),
                    seconds=time.perf_counter() - start,
                    nodes=tuple(nodes),
                )
                self.folder.commit(shard)
                self._take(shard)
                self._advance(number, shard)
                start = time.perf_counter()

    def _take(self, shard: Shard) -> None:
        self.attempts.update(shard.attempts)
        for node in shard.nodes:
            self.nodes[node.id] = node
            self.layers[node.layer].append(node)
            self.children[node.parent if node.parent is not None else root_name(self.plan, int(node.id))] += 1

    def _requests(self, block: Sequence[tuple[_Place, int]]) -> list[Request]:
        known = {place.name: self.prompt(place) for place, _ in block}
        prompts = [known[place.name] for place, _ in block]
        seeds = [node_seed(self.plan.seed, place.name, attempt) for place, attempt in block]
        return as_requests(prompts, seeds, self.tools.tokenizer)

    def prompt(self, place: _Place) -> str:
        """What the model continues at a place."""
        path = self._path(place.parent)
        system = root_system(self.plan, root_number(path[0].id) if path else place.root)
        return self.tools.openers.prompt(system, [(one.role, one.text) for one in path])

    def _path(self, node: Node | None) -> list[Node]:
        path: list[Node] = []
        while node is not None:
            path.append(node)
            node = self.nodes[node.parent] if node.parent is not None else None
        return path[::-1]

    def _expect(self, turns: int) -> None:
        if self.tools.progress is not None and turns:
            self.tools.progress.expect(turns)

    def _advance(self, number: int, shard: Shard, before: bool = False) -> None:
        if self.tools.progress is not None:
            tally = shard.tallies[number]
            self.tools.progress.advance(number, tally.sampled, tally.kept, tally.tokens, before=before)


def _without(turns: Sequence[tuple[_Place, int]], done: Counter[str]) -> list[tuple[_Place, int]]:
    """The turns but for as many of each place, the first ones, as are done."""
    left = []
    for place, attempt in turns:
        if done[place.name] > 0:
            done[place.name] -= 1
        else:
            left.append((place, attempt))
    return left


class _Judge:
    """Decides for one layer which turns become nodes."""

    def __init__(self, growth: _Growth, layer: int) -> None:
        self._growth, self._layer = growth, layer
        self._role = growth.plan.role(layer)
        # Equal answers to different questions are no duplicates, nor are follow-ups, unless the plan says so.
        self._over_layer = self._role == "user" and (layer == 0 or growth.plan.dedup.scope == "layer")
        self._compares = self._over_layer or growth.plan.children[layer] > 1
        self._dedup: Deduplicator | None = None

    def judge(self, block: Sequence[tuple[_Place, int]], completions: Sequence[Completion]) -> tuple[list[Node], Tally]:
        """Nodes made of the turns that are of use and repeat nobody, then the counts of all."""
        tally = Tally(sampled=len(block), tokens=sum(one.tokens for one in completions))
        useful: list[tuple[_Place, int, Completion, str]] = []
        for (place, attempt), completion in zip(block, completions, strict=True):
            text = completion.text.strip()
            reason = self._growth.tools.filters.reason(self._role, text, completion.finish_reason)
            if reason is None:
                useful.append((place, attempt, completion, text))
            else:
                tally.dropped[reason] += 1
        nodes: list[Node] = []
        below: Counter[str] = Counter()
        for (place, attempt, completion, text), verdict in zip(useful, self._verdicts(useful), strict=True):
            if verdict is not None:
                tally.dropped[verdict] += 1
                continue
            number = self._growth.children[place.name] + below[place.name]
            below[place.name] += 1
            nodes.append(self._node(place, number, attempt, completion, text))
        tally.kept = len(nodes)
        return nodes, tally

    def recall(self) -> dict[str, Any]:
        """What an exact comparison of a sample says of the index, where the layer was too large for exact comparison throughout."""
        return {} if self._dedup is None else {name: asdict(found) for name, found in self._dedup.recall().items()}

    def _verdicts(self, useful: Sequence[tuple[_Place, int, Completion, str]]) -> Sequence[str | None]:
        if not self._compares or not useful:
            return [None] * len(useful)
        if self._dedup is None:
            self._dedup = self._growth.tools.dedup()
            known = self._growth.layers[self._layer]
            self._dedup.remember([self._group(node.parent or "") for node in known], [node.text for node in known])
        return self._dedup.offer([self._group(place.name) for place, *_ in useful], [text for *_, text in useful])

    def _group(self, parent: str) -> str:
        return "" if self._over_layer else parent

    def _node(self, place: _Place, number: int, attempt: int, completion: Completion, text: str) -> Node:
        plan = self._growth.plan
        root = place.root + plan.cycle * number
        first = place.parent is None
        return Node(
            id=str(root) if first else child_id(place.name, number),
            parent=None if first else place.name,
            layer=self._layer,
            role=self._role,
            text=text,
            tokens=completion.tokens,
            seed=node_seed(plan.seed, place.name, attempt),
            logprob=None if completion.logprob is None else round(completion.logprob, 4),
            finish_reason=completion.finish_reason,
            system=_dealt(plan.system, root) if first else None,
            topic=_dealt(plan.topics, root) if first else None,
        )


def sampling(plan: TreeConfig, openers: Openers, layer: int) -> Sampling:
    """How the turns of a layer are written."""
    stop = openers.stops[plan.role(layer)]
    return Sampling(
        max_tokens=plan.of("max_tokens", layer),
        temperature=plan.of("temperature", layer),
        top_p=plan.of("top_p", layer),
        stop_ids=stop.ids,
        stop_texts=stop.texts,
    )


def root_name(plan: TreeConfig, root: int) -> str:
    """Name of the root prompt below which a first question stands, like no node's id; it seeds the first questions."""
    return f"root {root % plan.cycle} of {plan.cycle}" if plan.cycle > 1 else ""


def root_system(plan: TreeConfig, root: int) -> str | None:
    """The system prompt under which the dialogues below a first question are written; None: the template's own."""
    system, topic = _dealt(plan.system, root), _dealt(plan.topics, root)
    about = plan.topic_prompt.replace("{topic}", topic) if topic is not None else None
    return " ".join(part for part in (system, about) if part is not None) or None


def systems(plan: TreeConfig) -> tuple[str | None, ...]:
    """All system prompts under which this part writes."""
    return tuple(dict.fromkeys(root_system(plan, root) for root in plan.places()))


def _dealt(values: Sequence[str], root: int) -> str | None:
    return values[root % len(values)] if values else None
