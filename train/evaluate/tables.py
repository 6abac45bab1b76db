"""The comparison of runs as a table, for a terminal as well as for Markdown."""

from collections.abc import Sequence
from typing import Any

from train.evaluate.comparison import groups_of, percent, points, rows


def cells(row: dict[str, Any]) -> list[str]:
    """A row's numbers as text, in the order of `head`."""
    rate, seconds = row["learning_rate"], row["seconds"]
    return [
        row["name"],
        "–" if rate is None else f"{rate:g}",
        f"{percent(row['target_before'])} → {percent(row['target_after'])}",
        points(row["text_change"]),
        points(row["visual_change"]),
        f"{percent(row['number_probability_before'], 2)} → {percent(row['number_probability_after'], 2)}",
        "–" if seconds is None else f"{seconds:.0f}",
    ]


def head(found: Sequence[dict[str, Any]]) -> list[str]:
    """Column titles for rows; the target's name is the first row's."""
    target = found[0]["target_task"] or "target"
    return ["way", "learning rate", f"{target}, %", "text, points", "images, points", "number tokens, %", "seconds"]


def table(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> str:
    """A plain-text table; a line above each group of runs where there are several groups."""
    found = rows(runs, base)
    lines = [head(found), *map(cells, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [_aligned(lines[0], widths), "  ".join("─" * width for width in widths)]
    for group in groups_of(found):
        if len(groups_of(found)) > 1:
            text.append(f"({group})")
        text += [_aligned(cells(row), widths) for row in found if (row["group"] or "") == group]
    return "\n".join(text)


def markdown_table(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> str:
    """A Markdown table; with several groups of runs the first column names the group."""
    found = rows(runs, base)
    several = len(groups_of(found)) > 1
    titles = (["compared at"] if several else []) + head(found)
    lines = [titles, ["---"] * (2 if several else 1) + ["---:"] * (len(head(found)) - 1)]
    for group in groups_of(found):
        lines += [([group] if several else []) + cells(row) for row in found if (row["group"] or "") == group]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def evaluation_table(evaluation: dict[str, Any]) -> str:
    """One evaluation as plain text: each task with its accuracy, 95 % interval, strict accuracy, unparsed answers; then group means."""
    lines = [["task", "group", "n", "correct, %", "95 % interval", "strict, %", "unparsed"]]
    for name, task in evaluation["tasks"].items():
        low, high = task["interval"]
        numbers = [percent(task["accuracy"]), f"{percent(low)} – {percent(high)}", percent(task["strict_accuracy"]), str(task["unparsed"])]
        lines.append([name, task["group"], str(task["n"]), *numbers])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [_aligned(line, widths, left=2) for line in lines]
    text.insert(1, "  ".join("─" * width for width in widths))
    text += ["", *(f"{group}: {percent(mean)} %" for group, mean in evaluation["groups"].items())]
    bias = evaluation["number_token_probability"]
    text.append(
        f"number tokens: {'no held-out task to measure on' if bias is None else percent(bias, 2) + ' % on questions without numbers'}"
    )
    return "\n".join(text)


def _aligned(line: Sequence[str], widths: Sequence[int], left: int = 1) -> str:
    """Columns side by side, the first `left` to the left, the others to the right."""
    padded = [cell.ljust(width) for cell, width in zip(line[:left], widths, strict=False)]
    padded += [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
    return "  ".join(padded).rstrip()
