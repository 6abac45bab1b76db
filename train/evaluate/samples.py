"""Chooses answers worth looking at: where tuning changed them."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.evaluate.comparison import groups_of

LARGEST_PICTURE = 320  # pixels a side in the report; smaller pictures are embedded as they are


def choose(runs: Sequence[dict[str, Any]], base: dict[str, Any], group: str, most: int = 6) -> list[dict[str, Any]]:
    """Up to `most` questions of a group whose outcome changed, spread over its tasks, those first on which the runs disagree.

    Of a held-out group only questions are taken that the base answered right; of the targets only the runs' own task, if they
    name one.

    Returns:
        For each: `task`, `question`, `expected`, `image`, `before`, `before_correct`, `changed` (runs with another outcome than the
        base), `mixed` (whether runs disagree) and `after`: the distinct answers, each with the runs that gave it.
    """
    own = {run["target_task"] for run in runs if run.get("target_task")}
    queues = []
    for name, task in base["tasks"].items():
        if task["group"] == group and (group != "target" or not own or name in own):
            samples = [_sample(runs, base, name, at) for at in range(task["n"])]
            eligible = [one for one in samples if one["changed"] and (group == "target" or one["before_correct"])]
            queues.append(sorted(eligible, key=_interest))
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)][:most]


def data_uri(path: str | None) -> str | None:
    """The picture at `path` as a data URI; None without a path or a file there."""
    if path is None or not Path(path).is_file():
        return None
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
    return png_uri(buffer.getvalue())


def png_uri(content: bytes) -> str:
    """PNG bytes as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _sample(runs: Sequence[dict[str, Any]], base: dict[str, Any], task: str, at: int) -> dict[str, Any]:
    before = base["tasks"][task]["answers"][at]
    given = [run["evaluation"]["tasks"][task]["answers"][at] for run in runs]
    right = sum(one["correct"] for one in given)
    after = []
    for text in dict.fromkeys(one["answer"] for one in given):
        who = [run for run, one in zip(runs, given, strict=True) if one["answer"] == text]
        correct = next(one["correct"] for one in given if one["answer"] == text)
        after.append({"answer": text, "correct": correct, "ways": _who(who, runs)})
    return {
        "task": task,
        "question": before["question"],
        "expected": before["expected"],
        "image": before["image"],
        "before": before["answer"],
        "before_correct": before["correct"],
        "changed": len(runs) - right if before["correct"] else right,
        "mixed": 0 < right < len(runs),
        "after": after,
    }


def _who(chosen: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> str:
    """Names of runs, gathered by their group: "matched: full, sa_proj · fixed rate: full"; "every way" for all."""
    if len(chosen) == len(runs) > 1:
        return "every way"
    groups = groups_of(chosen)
    names = [", ".join(run["name"] for run in chosen if (run.get("group") or "") == group) for group in groups]
    several = len(groups_of(runs)) > 1
    return " · ".join(f"{group}: {name}" if several else name for group, name in zip(groups, names, strict=True))


def _interest(sample: dict[str, Any]) -> tuple[bool, int, int]:
    """Sorting key: questions on which the runs disagree, then those that most runs changed, then most different answers."""
    return not sample["mixed"], -sample["changed"], -len(sample["after"])
