"""What a sequence of skills learned and lost, as numbers.

A *matrix* is plain data, ready for JSON. Scores are shares of right answers, 0 to 1; measures are changes of them, after - before, so that
what was lost is negative:

    target_learning      of each task, behind its own stage, against the base
    target_forgetting    of each task but the last, at the end, against the score behind its own stage
    target_overall       of each task, at the end, against the base
    held_out_forgetting  of each held-out task, at the end, against the base; `_visual` and `_text` are the same over one group

Each has `mean`, `total` and `tasks`; over several sequences `mean` and `total` are means over them, with `means` the one of each. The
measures are those of arXiv 2510.08564; that its forgetting leaves out the last task, which nothing followed, is our reading.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MEASURES = ("target_learning", "target_forgetting", "target_overall", "held_out_forgetting", "held_out_visual", "held_out_text")

Scores = Mapping[str, float]


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Each task's share of right answers."""
    return {name: task["accuracy"] for name, task in evaluation["tasks"].items()}


def groups_of(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Each task's group."""
    return {name: task["group"] for name, task in evaluation["tasks"].items()}


def measures(base: Scores, stages: Sequence[Scores], tasks: Sequence[str], groups: Mapping[str, str]) -> dict[str, Any]:
    """The measures of one sequence; None for one that nothing tells about.

    Args:
        base: Scores before the first task.
        stages: Scores behind each task.
        tasks: Names of the tasks, in order.
        groups: Each scored task's group.
    """
    last = stages[-1]
    own = dict(zip(tasks, stages, strict=True))
    held_out = {
        group: {name: last[name] - base[name] for name, of in groups.items() if of == group}
        for group in ("held_out_visual", "held_out_text")
    }
    changes = {
        "target_learning": {name: own[name][name] - base[name] for name in tasks},
        "target_forgetting": {name: last[name] - own[name][name] for name in tasks[:-1]},
        "target_overall": {name: last[name] - base[name] for name in tasks},
        "held_out_forgetting": held_out["held_out_visual"] | held_out["held_out_text"],
        **held_out,
    }
    return {name: _summed(changes[name]) for name in MEASURES}


def matrix(base: Mapping[str, Any], sequences: Sequence[Mapping[str, Any]], groups: Mapping[str, str]) -> dict[str, Any]:
    """The whole matrix; a sequence whose stages are not all there has no measures yet.

    Args:
        base: `scores`, and what else is to be told of the base.
        sequences: Of each order with each seed `order`, `seed`, `tasks`, `stages`; of a stage `task`, `scores`, what else is to be told.
        groups: Each scored task's group.
    """
    found = []
    for one in sequences:
        whole = len(one["stages"]) == len(one["tasks"])
        scores = [stage["scores"] for stage in one["stages"]]
        found.append({**one, "measures": measures(base["scores"], scores, one["tasks"], groups) if whole else None})
    done = [one for one in found if one["measures"] is not None]
    return {
        "groups": dict(groups),
        "base": dict(base),
        "sequences": found,
        "orders": [
            _over_seeds([one for one in done if one["order"] == order], base) for order in dict.fromkeys(one["order"] for one in done)
        ],
        "measures": over([one["measures"] for one in done]),
    }


def over(several: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Means over the measures of several sequences; None of none."""
    if not several:
        return None
    found: dict[str, Any] = {}
    for name in MEASURES:
        known = [one[name] for one in several if one[name] is not None]
        found[name] = None
        if known:
            found[name] = {
                "mean": _mean([one["mean"] for one in known]),
                "total": _mean([one["total"] for one in known]),
                "means": [one["mean"] for one in known],
            }
    return found


def _over_seeds(sequences: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, Any]:
    """One order: `scores` has a row for the base, then one for each stage."""
    rows = [[base["scores"], *(stage["scores"] for stage in one["stages"])] for one in sequences]
    return {
        "order": sequences[0]["order"],
        "tasks": list(sequences[0]["tasks"]),
        "seeds": [one["seed"] for one in sequences],
        "scores": [{name: _mean([row[name] for row in same]) for name in same[0]} for same in zip(*rows, strict=True)],
        "measures": over([one["measures"] for one in sequences]),
    }


def _summed(changes: Mapping[str, float]) -> dict[str, Any] | None:
    if not changes:
        return None
    return {"mean": _mean(list(changes.values())), "total": sum(changes.values()), "tasks": dict(changes)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
