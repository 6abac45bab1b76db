"""Numbers that set tuned models against the base they came from.

A *run* is a plain dict: `name` (the way of tuning), `group` ("matched", "fixed rate", or any other set of runs made alike),
`target_task`, `evaluation`; and, as far as known, `preset`, `learning_rate`, `steps`, `batch_size`, `text_share`,
`trainable_parameters`, `total_parameters`, `seconds_train`, `seconds_evaluate`. *base* is the evaluation before tuning.
"""

from collections.abc import Sequence
from typing import Any

TEXT, VISUAL = "held_out_text", "held_out_visual"
KNOWN = (
    *("name", "group", "preset", "learning_rate", "steps", "batch_size", "text_share", "target_task"),
    *("trainable_parameters", "total_parameters", "seconds_train"),
)
HELD_OUT = {TEXT: "text", VISUAL: "images"}


def check(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> None:
    """Raises a ValueError that names run and task where base and runs did not answer the same questions."""
    if not runs:
        raise ValueError("no run to report on; give at least one evaluated run beside the base")
    for run in runs:
        tasks, target = run["evaluation"]["tasks"], run.get("target_task")
        missing = sorted(base["tasks"].keys() ^ tasks.keys())
        if missing:
            raise ValueError(f"run {run['name']!r}: tasks {', '.join(missing)} are not in both evaluations; use one suite for both")
        for name, task in tasks.items():
            if [one["id"] for one in task["answers"]] != [one["id"] for one in base["tasks"][name]["answers"]]:
                raise ValueError(f"run {run['name']!r}, task {name!r}: not the base's questions; use one suite for both")
        if target is not None and target not in tasks:
            raise ValueError(f"run {run['name']!r}: target task {target!r} was not evaluated; tasks: {', '.join(tasks)}")


def rows(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[dict[str, Any]]:
    """One row of numbers for each run, in the runs' order; shares lie in 0..1, changes are after - before, None is unknown."""
    found = []
    for run in runs:
        after = run["evaluation"]
        seconds = [run.get("seconds_train"), run.get("seconds_evaluate", after.get("seconds"))]
        row = {key: run.get(key) for key in KNOWN} | {
            "label": label(run, runs),
            "target_before": _target(run, base),
            "target_after": _target(run, after),
            "text_change": _change(base, after, TEXT),
            "visual_change": _change(base, after, VISUAL),
            "number_probability_before": base.get("number_token_probability"),
            "number_probability_after": after.get("number_token_probability"),
            "seconds": sum(value for value in seconds if value is not None) if any(value is not None for value in seconds) else None,
            "flips": flips(run, base),
        }
        found.append(row)
    return found


def label(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """The run's name, with its group where another run has the same name."""
    namesakes = [other for other in runs if other["name"] == run["name"]]
    return run["name"] if len(namesakes) == 1 else f"{run['name']}, {run.get('group')}"


def flips(run: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, int]]:
    """For each held-out group: n, right_to_wrong, wrong_to_right, counted answer by answer."""
    counts = {}
    for group in HELD_OUT:
        pairs = [
            (before["correct"], after["correct"])
            for name, task in base["tasks"].items()
            if task["group"] == group
            for before, after in zip(task["answers"], run["evaluation"]["tasks"][name]["answers"], strict=True)
        ]
        if pairs:
            counts[group] = {"n": len(pairs), "right_to_wrong": pairs.count((True, False)), "wrong_to_right": pairs.count((False, True))}
    return counts


def groups_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """The groups of rows or runs, in order of appearance."""
    return list(dict.fromkeys(row.get("group") or "" for row in found))


def retention(row: dict[str, Any]) -> float:
    """Mean change over the held-out groups that were measured."""
    changes = [row[key] for key in ("text_change", "visual_change") if row[key] is not None]
    return sum(changes) / len(changes) if changes else 0.0


def sentence(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> str:
    """The outcome of the first group of runs in one sentence, built from the numbers."""
    found = rows(runs, base)
    first = [row for row in found if (row["group"] or "") == groups_of(found)[0]]
    reached = [row["target_after"] for row in first if row["target_after"] is not None]
    best, worst = max(first, key=retention), min(first, key=retention)
    parts = []
    if reached:
        low, high = percent(min(reached)), percent(max(reached))
        goal = f"{low} %" if low == high else f"between {low} and {high} %"
        name = first[0]["target_task"] or "the target tasks"
        parts.append(f"Accuracy on {name} went from {percent(first[0]['target_before'])} % to {goal}")
    if best is worst:
        parts.append(f"{best['name']} changed held-out answers by {_changes(best)}")
    else:
        parts.append(f"{best['name']} kept most of what the model knew ({_changes(best)}), {worst['name']} least ({_changes(worst)})")
    bias = _biases(best, worst)
    if bias:
        parts.append(f"on questions that ask for no number, the probability of a number token went {bias}")
    return "; ".join(parts) + "."


def _biases(best: dict[str, Any], worst: dict[str, Any]) -> str:
    before = best["number_probability_before"]
    chosen = [row for row in ([worst] if best is worst else [best, worst]) if row["number_probability_after"] is not None]
    if before is None or not chosen:
        return ""
    after = " and ".join(f"{percent(row['number_probability_after'], 2)} % with {row['name']}" for row in chosen)
    return f"from {percent(before, 2)} % to {after}"


def _changes(row: dict[str, Any]) -> str:
    parts = [f"{name} {points(row[key])}" for name, key in (("text", "text_change"), ("images", "visual_change")) if row[key] is not None]
    return ", ".join(parts) + " points" if parts else "nothing measured"


def _target(run: dict[str, Any], evaluation: dict[str, Any]) -> float | None:
    """Accuracy on the run's target task; the mean over all target tasks where it names none."""
    name = run.get("target_task")
    return evaluation["tasks"][name]["accuracy"] if name else evaluation["groups"].get("target")


def _change(base: dict[str, Any], after: dict[str, Any], group: str) -> float | None:
    both = group in base["groups"] and group in after["groups"]
    return after["groups"][group] - base["groups"][group] if both else None


def percent(share: float | None, digits: int = 1) -> str:
    """0.934 as "93.4"; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(change: float | None) -> str:
    """A change of a share in percentage points, with its sign: "−12.5", "+0.4", "0.0"; a dash for None."""
    if change is None:
        return "–"
    text = f"{100 * change:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
