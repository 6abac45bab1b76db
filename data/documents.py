"""Plain documents, which a model reads as they are, without a chat template."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from data.conversation import Turn
from data.problems import BadRecord

Span = tuple[int, int, float]  # first, behind the last, loss weight


def parts_of(text: Any, weights: Any, names: tuple[str, str]) -> list[tuple[str, Any]]:
    """A document in parts, each with its weight as the record gives it.

    Args:
        text: The document.
        weights: (number of characters, weight) for part after part, which cover the text; None: it is one part of weight 1.
        names: What the record calls the two.

    Raises:
        BadRecord: The text is none, or blank; the parts do not cover it.
    """
    if not isinstance(text, str):
        raise BadRecord("not_text", f"{names[0]!r} is {type(text).__name__}, expected text")
    if not text.strip():
        raise BadRecord("empty", f"{names[0]!r} is empty; give a text, or remove the record")
    if weights is None:
        return [(text, 1.0)]
    if not isinstance(weights, list) or not all(isinstance(run, list | tuple) and len(run) == 2 and _counts(run[0]) for run in weights):
        raise BadRecord("bad_weight", f"{names[1]!r} is {weights!r:.60}, expected a list of [number of characters, weight]")
    covered = sum(int(count) for count, _ in weights)
    if covered != len(text):
        raise BadRecord("bad_weight", f"{names[1]!r} covers {covered} characters, {names[0]!r} has {len(text)}; write the record again")
    parts, start = [], 0
    for count, weight in weights:
        parts.append((text[start : start + int(count)], weight))
        start += int(count)
    return parts


def ends_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What a tokenizer writes before any plain text, then what stands behind it: at least its end-of-sequence token, where it has one."""
    whole, bare = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
    head = next(start for start in range(len(whole) + 1) if whole[start : start + len(bare)] == bare)
    tail = whole[head + len(bare) :]
    end = tokenizer.eos_token_id
    return whole[:head], tail if end is None or tail[-1:] == [end] else [*tail, end]


def spans_of(parts: Sequence[Turn]) -> tuple[Span, ...]:
    """The characters of each part that carries loss."""
    bounds = [0, *accumulate(len(part.text) for part in parts)]
    return tuple((first, last, part.weight) for part, first, last in zip(parts, bounds, bounds[1:], strict=False) if part.weight > 0)


def between(ends: tuple[list[int], list[int]], ids: np.ndarray, spans: Sequence[Span]) -> tuple[np.ndarray, list[Span]]:
    """Ids of a document with what stands around them; the end carries the loss of the last token, the first of all carries none."""
    (head, tail), moved = ends, []
    for first, last, weight in spans:
        if first < last:
            end = last + len(tail) * (last == len(ids))
            moved.append((max(first + len(head), 1), end + len(head), weight))
    return np.concatenate([head, ids, tail]).astype(ids.dtype), moved


def _counts(value: Any) -> bool:
    """Whether a value counts something; tables write whole numbers as floats."""
    is_whole = (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    return is_whole and value >= 0
