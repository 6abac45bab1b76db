"""A described plan, drawn for the terminal or as one HTML page."""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import write_json, write_text
from data.figures import COLOURS
from data.preview import numbers

TEMPLATE = Path(__file__).with_name("preview.html.j2")
PAGE, NUMBERS, FIGURE = "preview.html", "preview.json", "length_histogram.png"
LONGEST_TEXT = 2000  # characters of a sample in the terminal
LARGEST_PICTURE = 320  # pixels a side on the page; smaller pictures are embedded as they are
LARGEST_PNG = 48 * 1024  # bytes; a picture that takes more is a photograph, which JPEG holds in less
GREEN, PLAIN = "\x1b[32m", "\x1b[0m"
LEFT_OUT = "#8a949c"


def render_text(description: dict[str, Any], *, colour: bool = False) -> str:
    """A description for the terminal.

    Args:
        description: From `data.preview.describe`.
        colour: Show what carries loss in green, else between « and ».
    """
    lines = [line for source in description["sources"] for line in _source_lines(source)]
    lines.append(summary(description))
    if description["packing"] is not None and description["packing"]["advice"] is not None:
        lines.append(description["packing"]["advice"])
    bad = sum(source["bad_records"] for source in description["sources"])
    if bad:
        lines.append(f"left out: {_count(bad, 'bad record')}; `perennial validate` lists them")
    for row in description["shown"]:
        lines += ["", _row_title(row, description)]
        lines += [line for sample in row["samples"] for line in _sample_lines(sample, colour)]
        if len(row["samples"]) < len(row["parts"]):
            lines.append(f"  {_count(len(row['parts']) - len(row['samples']), 'sample')} of other sources in this row")
    if not description["starts"]:
        lines += ["", f"training would not start: {visible(description['why_not'])}"]
    return "\n".join(lines)


def render_html(description: dict[str, Any]) -> str:
    """A description as one page, which needs no other file nor a network."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        description=description,
        summary=summary(description),
        rows=[row | {"title": _row_title(row, description), "room": _room(row, description)} for row in description["shown"]],
        sources=description["sources"],
        settings=description["settings"],
        colour=lambda number: COLOURS[number % len(COLOURS)],
        thumbnail=thumbnail,
        counted=sample_counts,
        figure=data_uri(draw_lengths(description)) if description["lengths"]["edges"] else None,
    )


def write_preview(description: dict[str, Any], folder: Path) -> Path:
    """Writes preview.html, preview.json, length_histogram.png; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, numbers(description))
    if description["lengths"]["edges"]:
        (folder / FIGURE).write_bytes(draw_lengths(description))
    return write_text(folder / PAGE, render_html(description))


def summary(description: dict[str, Any]) -> str:
    """The plan in one sentence."""
    if not description["rows"]:
        return "no row can be planned"
    batch = _count(description["batch_size"], "row")
    text = f"{_count(description['steps'], 'step')} of {batch}: {description['samples']:,} samples, {description['tokens']:,} tokens"
    if description["packing"] is not None:
        text += f"; rows of {description['packing']['length']:,} tokens are {description['packing']['fill']:.2%} full"
    padding = f"{description['padding_share']:.1%} padding in batches of {_count(description['micro_batch'], 'row')} (one process)"
    return f"{text}; {padding}"


def sample_counts(sample: dict[str, Any]) -> str:
    """Tokens of a sample in words."""
    text = f"{_count(sample['tokens'], 'token')}, {sample['loss_tokens']:,} carry loss"
    return f"{text}, {sample['image_tokens']:,} stand for {_count(len(sample['pictures']), 'picture')}" if sample["pictures"] else text


def thumbnail(image: np.ndarray) -> str:
    """A picture, uint8 [height, width, 3], as a small data URI."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    if buffer.tell() <= LARGEST_PNG:
        return data_uri(buffer.getvalue())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture file's bytes as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def draw_lengths(description: dict[str, Any]) -> bytes:
    """The histogram of lengths as PNG: sources stacked, a line at the longest length, behind it what was left out."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    lengths, longest = description["lengths"], description["max_length"]
    edges = np.asarray(lengths["edges"])
    named = [f"{source['number']}: {Path(source['path']).name}" for source in description["sources"]]
    stacks = [(label, COLOURS[at % len(COLOURS)], lengths["sources"][at]) for at, label in enumerate(named)]
    stacks.append((f"left out, too long: {sum(lengths['over_long']):,}", LEFT_OUT, lengths["over_long"]))
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 3.4), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        below = np.zeros(len(edges) - 1)
        for label, shade, counts in stacks:
            if any(counts):
                panel.bar(
                    edges[:-1], counts, np.diff(edges), bottom=below, align="edge", color=shade, label=label, edgecolor="white", lw=0.4
                )
                below = below + counts
        panel.axvline(longest, color="#333333", linewidth=1.2, linestyle="--", label=f"max_length {longest:,}")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(LogLocator(2, numticks=12))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set(xlabel="tokens of a sample (each step twice the one before)", ylabel="samples")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def visible(text: str) -> str:
    r"""Text whose control characters, which could move the cursor or colour the terminal, are spelled out (\x1b)."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _room(row: dict[str, Any], description: dict[str, Any]) -> int | None:
    """Tokens that the row could hold; None where rows are not packed."""
    return None if description["packing"] is None else int(description["packing"]["length"])


def _source_lines(source: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{source['number']}: {visible(source['path'])}: {_count(source['records'], 'record')}, {source['bad_records']:,} bad; "
        f"{source['sample_share']:.1%} of samples, {source['token_share']:.1%} of tokens, {source['epochs']:.2f} epochs"
    )
    for kind, found in source["kinds"].items():
        yield f"  {found['count']:>8,}  {kind}: {visible(found['first'])}"


def _row_title(row: dict[str, Any], description: dict[str, Any]) -> str:
    title = f"row {row['row']} (step {row['step']}): "
    room = _room(row, description)
    if room is None:
        return title + _count(row["tokens"], "token")
    return f"{title}{_count(len(row['parts']), 'sample')}, {row['tokens']:,} of {room:,} tokens ({row['tokens'] / room:.1%})"


def _sample_lines(sample: dict[str, Any], colour: bool) -> Iterator[str]:
    named = f" (id {visible(sample['id'])})" if sample["id"] is not None else ""
    yield f"  {visible(sample['place'])}{named}: {sample_counts(sample)}"
    if sample["error"] is not None:
        yield f"    training would stop here: {visible(sample['error'])}"
        return
    yield "    " + _marked(sample["runs"], colour).replace("\n", "\n    ")


def _marked(runs: Sequence[dict[str, Any]], colour: bool) -> str:
    """A sample's text with what carries loss set apart, cut where it is too long."""
    opening, closing = (GREEN, PLAIN) if colour else ("«", "»")
    room, text, total = LONGEST_TEXT, "", sum(len(run["text"]) for run in runs)
    for run in runs:
        inside = visible(run["text"][:room])
        if run["weight"] and inside:
            factor = "" if run["weight"] == 1 else f"(x{run['weight']:g})"
            inside = f"{opening}{inside}{closing}{factor}"
        text += inside
        room = max(0, room - len(run["text"]))
    return text if total <= LONGEST_TEXT else f"{text} ... {total - LONGEST_TEXT:,} characters more; --output DIR writes them all"
