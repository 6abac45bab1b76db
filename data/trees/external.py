"""A corpus that exists already as a tree of dialogues that share nothing."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from data.config import SourceConfig
from data.conversation import Conversation, Turn
from data.problems import Problem
from data.readers import stream
from data.trees.nodes import Node, child_id

UNFIT = {
    "pictures": "a dialogue about pictures",
    "document": "a plain text, not a dialogue",
    "no_answer": "a question to which there is no answer",
    "turns_out_of_order": "a system turn that is not the first",
}
"""Why a good record makes no dialogue of a tree -> what it means; bad records have their kind in `data.problems.KINDS`."""


def dialogues_of(source: SourceConfig, skipped: Counter[str], tokenizer: Any = None, seed: int = 0) -> Iterator[list[Node]]:
    """Reads a corpus, dialogue by dialogue, each a chain of nodes under its own root ("0", "0.0", "0.0.0" ...).

    A system turn is kept in the root. Roots are numbered in the corpus's order, records that are left out not counted. Nothing is known of
    how turns were written: their seed is 0, their log-probability None. Weights of records are not kept.

    Args:
        source: Any that can be trained on; with `max_records`, so many of its dialogues are drawn.
        skipped: For each record that is left out it gets one more under a kind of `UNFIT` or of `data.problems.KINDS`.
        tokenizer: Counts the tokens of turns; None: they are 0.
        seed: Draws the dialogues.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: It is of no kind that can be read.
    """
    for number, dialogue in enumerate(_drawn(_usable(source, skipped), source.max_records, seed)):
        yield _chain(dialogue, str(number), tokenizer)


def _usable(source: SourceConfig, skipped: Counter[str]) -> Iterator[Conversation]:
    for one in stream(source):
        reason = one.kind if isinstance(one, Problem) else _unfit(one)
        if reason is not None:
            skipped[reason] += 1
        elif isinstance(one, Conversation):
            yield one


def _unfit(one: Conversation) -> str | None:
    if one.is_document:
        return "document"
    if one.images:
        return "pictures"
    roles = [turn.role for turn in _said(one)]
    if "system" in roles:
        return "turns_out_of_order"
    return None if "assistant" in roles else "no_answer"


def _said(one: Conversation) -> tuple[Turn, ...]:
    """The turns behind the system turn; readers see to it that question and answer alternate."""
    return one.turns[1:] if one.turns[0].role == "system" else one.turns


def _drawn(dialogues: Iterable[Conversation], size: int | None, seed: int) -> Iterable[Conversation]:
    """So many of the dialogues, each as likely as any other, in their order; no more than those are held at once."""
    if size is None:
        return dialogues
    draw, kept = random.Random(seed), []
    for number, one in enumerate(dialogues):
        if number < size:
            kept.append(one)
        elif (place := draw.randrange(number + 1)) < size:
            kept[place] = one
    return sorted(kept, key=lambda one: one.record)


def _chain(dialogue: Conversation, root: str, tokenizer: Any) -> list[Node]:
    turns = _said(dialogue)
    texts = [turn.text for turn in turns]
    counts = [0] * len(texts)
    if tokenizer is not None:
        counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    nodes: list[Node] = []
    for layer, (turn, tokens) in enumerate(zip(turns, counts, strict=True)):
        parent = nodes[-1].id if nodes else None
        nodes.append(
            Node(
                id=child_id(parent, 0) if nodes else root,
                parent=parent,
                layer=layer,
                role="assistant" if turn.role == "assistant" else "user",
                text=turn.text,
                tokens=tokens,
                seed=0,
                logprob=None,
                finish_reason="stop",
                system=dialogue.turns[0].text if not nodes and dialogue.turns[0].role == "system" else None,
            )
        )
    return nodes
