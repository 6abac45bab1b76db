"""The report that sets ways of tuning side by side: one HTML page, its figures, its numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.atomic import write_json, write_text
from train.evaluate.comparison import HELD_OUT, check, groups_of, rows, sentence
from train.evaluate.samples import choose, data_uri, png_uri
from train.evaluate.tables import cells, head, markdown_table, table

__all__ = ["markdown_table", "numbers", "render", "table"]

TEMPLATE = Path(__file__).with_name("report.html.j2")
SAMPLE_SECTIONS = {
    "target": "The new skill",
    "held_out_visual": "Questions about pictures that it answered right before",
    "held_out_text": "Questions without pictures that it answered right before",
}
FIGURE_NOTES = {
    "frontier": "What was learned against what was lost. A way is better the further to the right and the higher it stands.",
    "bars": "Each task after tuning (bar, with its 95 % interval) and before (black line).",
    "drift": "How much probability moved to number tokens on questions that ask for none: a drift of the output, not yet a wrong answer.",
}


def render(runs: Sequence[dict[str, Any]], base: dict[str, Any], folder: Path, *, title: str, context: dict[str, Any]) -> Path:
    """Writes report.html, report.json, report.md with frontier.png, bars.png, drift.png into `folder`.

    Args:
        runs: The ways of tuning, see `train.evaluate.comparison`.
        base: The evaluation before tuning, on the same suite.
        folder: Where to write; made if missing.
        title: The page's heading.
        context: Settings to be shown, name -> value: whatever made these numbers what they are.

    Returns:
        The path of report.html: one file that needs no other, nor a network.

    Raises:
        ValueError: Base and runs did not answer the same questions.
    """
    from jinja2 import Environment, StrictUndefined

    from train.evaluate.figures import draw_all

    check(runs, base)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(runs, base)
    drawn = draw_all(runs, base, folder)
    figures = {name: {"uri": png_uri(path.read_bytes()), "note": FIGURE_NOTES[name]} for name, path in drawn.items()}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        summary=sentence(runs, base),
        head=head(found),
        groups=[(group, [(row, cells(row)) for row in found if (row["group"] or "") == group]) for group in groups_of(found)],
        held_out=HELD_OUT,
        figures=figures,
        sections=_sections(runs, base),
        context=context,
    )
    write_json(folder / "report.json", numbers(runs, base, title, context), indent=1)
    write_text(folder / "report.md", f"# {title}\n\n{sentence(runs, base)}\n\n{markdown_table(runs, base)}\n")
    return write_text(folder / "report.html", page)


def numbers(runs: Sequence[dict[str, Any]], base: dict[str, Any], title: str, context: dict[str, Any]) -> dict[str, Any]:
    """All numbers of the report, JSON-ready; answers and file paths stay in the evaluations."""
    found = rows(runs, base)
    return {
        "title": title,
        "summary": sentence(runs, base),
        "context": context,
        "rows": found,
        "base": _without_answers(base),
        "runs": {row["label"]: _without_answers(run["evaluation"]) for row, run in zip(found, runs, strict=True)},
    }


def _without_answers(evaluation: dict[str, Any]) -> dict[str, Any]:
    tasks = {name: {key: value for key, value in task.items() if key != "answers"} for name, task in evaluation["tasks"].items()}
    kept = ("suite", "groups", "number_token_probability", "seconds")
    return {key: evaluation.get(key) for key in kept} | {"tasks": tasks}


def _sections(runs: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[dict[str, Any]]:
    sections = []
    for group, heading in SAMPLE_SECTIONS.items():
        samples = [sample | {"uri": data_uri(sample["image"])} for sample in choose(runs, base, group)]
        if samples:
            sections.append({"heading": heading, "samples": samples})
    return sections
