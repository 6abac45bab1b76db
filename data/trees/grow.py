"""Growth of a tree, breadth first, one layer after the other."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from data.trees.dedup import AlikeShingles, AlikeVectors, Near, Seen
from data.trees.engine import Completion, Embedder, Engine, Sampling, node_seed
from data.trees.filters import reason_to_drop, turn_text
from data.trees.folder import TreeFolder
from data.trees.nodes import Node, Tree, by_layer, child_id, prompts_below
from data.trees.openers import Openers, derive, prompt_ids
from data.trees.plan import TreeConfig


class Progress(Protocol):
    """What growth tells while it goes on."""

    def expect(self, turns: int) -> None:
        """More turns (fewer, when negative) than planned will be written."""

    def advance(self, turns: int, tokens: int) -> None:
        """Turns have been written."""

    def judged(self, layer: int, kept: int, sampled: int) -> None:
        """A round of a layer is over."""


def grow(
    plan: TreeConfig,
    engine: Engine,
    tokenizer: Any,
    *,
    embed: Embedder | None = None,
    folder: TreeFolder | None = None,
    progress: Progress | None = None,
) -> Tree:
    """Grows a tree; in a folder only the layers that it does not hold yet.

    Every node's prompt is its parent's prompt, the parent's text, then the opener of its own role. Turns that are unfinished,
    empty, speak for the other side or repeat another one are dropped, each counted; sampled turns are drawn again until the
    quota is full, `max_rounds` are over or a round yields less than `min_yield`.

    Args:
        plan: What to grow.
        engine: What runs the model.
        tokenizer: Turns prompts into ids, ids into texts; its chat template gives the openers.
        embed: Vectors for near-duplicates; needed when the plan looks for them.
        folder: Layers in it are kept as they are; each new one is committed to it as soon as it is finished.
        progress: Told about each batch.

    Returns:
        The whole tree; it ends early where a layer stays empty.

    Raises:
        ValueError: The tokenizer has no usable chat template, or the plan asks for vectors that nobody gives.
    """
    openers = derive(tokenizer, system=plan.system, end_ids=engine.end_ids)
    tree = folder.tree if folder is not None else Tree(nodes=(), layers=())
    nodes, layers = list(tree.nodes), list(tree.layers)
    growth = _Growth(plan, engine, tokenizer, openers, embed, progress)
    for number in range(len(layers), plan.depth):
        parents: Sequence[Node | None] = by_layer(nodes, number - 1) if number else [None]
        if not parents:
            break
        grown, counts = growth.layer(number, parents, prompts_below(nodes, openers))
        nodes += grown
        layers.append(counts)
        if folder is not None:
            folder.commit(grown, counts)
    return Tree(nodes=tuple(nodes), layers=tuple(layers))


@dataclass
class _Place:
    """A parent with its children so far."""

    parent: str | None
    prompt: list[int]
    seen: Seen
    children: list[Node] = field(default_factory=list)
    attempts: int = 0


@dataclass
class _Growth:
    """What all layers of one growth share."""

    plan: TreeConfig
    engine: Engine
    tokenizer: Any
    openers: Openers
    embed: Embedder | None
    progress: Progress | None

    def layer(self, number: int, parents: Sequence[Node | None], prompts: dict[str, str]) -> tuple[list[Node], dict[str, Any]]:
        """Grows one layer; gives its nodes in the parents' order, then its counts."""
        start, quota = time.perf_counter(), self.plan.children[number]
        sampling = self._sampling(number)
        places = self._places(number, parents, prompts)
        dropped: Counter[str] = Counter()
        rounds: list[dict[str, int]] = []
        self._expect(len(places) * quota - self.plan.layer_sizes[number])
        for attempt in range(self.plan.max_rounds if sampling.temperature > 0 else 1):
            open_places = [place for place in places if len(place.children) < quota]
            wanted = sum(quota - len(place.children) for place in open_places)
            if not wanted:
                break
            self._expect(wanted if attempt else 0)
            kept = self._round(number, open_places, sampling, dropped)
            rounds.append({"sampled": wanted, "kept": kept})
            if self.progress is not None:
                self.progress.judged(number, kept, wanted)
            floor = self.plan.min_yield * wanted
            if floor >= 1 and kept < floor:  # in a round so small that the floor is below one turn, chance decides
                break
        nodes = [node for place in places for node in place.children]
        counts = {
            "layer": number,
            "role": self.plan.role(number),
            "planned": self.plan.layer_sizes[number],
            "sampled": sum(one["sampled"] for one in rounds),
            "kept": len(nodes),
            "dropped": dict(sorted(dropped.items())),
            "rounds": rounds,
            "tokens": sum(node.tokens for node in nodes),
            "seconds": round(time.perf_counter() - start, 3),
        }
        return nodes, counts

    def _places(self, number: int, parents: Sequence[Node | None], prompts: dict[str, str]) -> list[_Place]:
        """The parents of a layer; equal answers to different questions are no duplicates, so only questions are compared across it."""
        near = self.plan.dedup.near if self._sampling(number).temperature > 0 else "none"
        if near == "states" and self.embed is None:
            raise ValueError("tree.dedup.near is states, but this engine gives no vectors; set it to shingles")
        is_shared = self.plan.dedup.scope == "layer" and self.plan.role(number) == "user"
        whole_layer = self._seen(near)
        return [
            _Place(
                parent.id if parent else None,
                prompt_ids(prompts[parent.id] if parent else self.openers.root, self.tokenizer),
                whole_layer if is_shared else self._seen(near),
            )
            for parent in parents
        ]

    def _seen(self, near: str) -> Seen:
        kinds: dict[str, Callable[[float], Near]] = {"shingles": AlikeShingles, "states": AlikeVectors}
        return Seen(kinds[near](self.plan.dedup.threshold) if near in kinds else None)

    def _sampling(self, number: int) -> Sampling:
        role = self.plan.role(number)
        stop = self.openers.stops[role]
        return Sampling(
            max_tokens=self.plan.max_tokens[number],
            temperature=self.plan.temperature if role == "user" else self.plan.answer_temperature,
            top_p=self.plan.top_p,
            stop_ids=stop.ids,
            stop_texts=stop.texts,
        )

    def _round(self, number: int, places: Sequence[_Place], sampling: Sampling, dropped: Counter[str]) -> int:
        """Draws what is missing everywhere; gives how many turns were kept."""
        seeds = []
        for place in places:
            missing = self.plan.children[number] - len(place.children)
            seeds.append([node_seed(self.plan.seed, place.parent, place.attempts + k) for k in range(missing)])
            place.attempts += missing
        advance = self.progress.advance if self.progress is not None else None
        written = self.engine.complete([place.prompt for place in places], sampling, seeds, advance)
        candidates: list[tuple[_Place, int, Completion, str]] = []
        role = self.plan.role(number)
        for place, row, completions in zip(places, seeds, written, strict=True):
            for seed, completion in zip(row, completions, strict=True):
                text = turn_text(completion, self.openers.stops[role], self.tokenizer)
                reason = reason_to_drop(completion, text, self.openers)
                if reason is None:
                    candidates.append((place, seed, completion, text))
                else:
                    dropped[reason] += 1
        return self._keep(number, candidates, dropped)

    def _keep(self, number: int, candidates: Sequence[tuple[_Place, int, Completion, str]], dropped: Counter[str]) -> int:
        """Keeps the candidates that repeat nobody, in order."""
        fresh = list(self._not_exact(candidates, dropped))
        vectors: Any = [None] * len(fresh)
        if fresh and isinstance(fresh[0][0].seen.near, AlikeVectors) and self.embed is not None:
            vectors = self.embed([text for *_, text in fresh])
        kept = 0
        for (place, seed, completion, text), vector in zip(fresh, vectors, strict=True):
            verdict = place.seen.offer(text, vector)
            if verdict is not None:
                dropped[verdict] += 1
                continue
            node = Node(
                id=child_id(place.parent, len(place.children)),
                parent=place.parent,
                layer=number,
                role=self.plan.role(number),
                text=text,
                tokens=len(completion.token_ids),
                seed=seed,
                logprob=round(completion.logprob, 4),
                finish_reason=completion.finish_reason,
            )
            place.children.append(node)
            kept += 1
        return kept

    def _not_exact(
        self, candidates: Iterable[tuple[_Place, int, Completion, str]], dropped: Counter[str]
    ) -> Iterable[tuple[_Place, int, Completion, str]]:
        """Leaves out exact duplicates of what is kept already, so that no vectors are made for them."""
        for candidate in candidates:
            if candidate[3] in candidate[0].seen:
                dropped["exact_duplicate"] += 1
            else:
                yield candidate

    def _expect(self, turns: int) -> None:
        if self.progress is not None and turns:
            self.progress.expect(turns)
