"""What the first rows of a run hold, with numbers about all of its rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from data.collate import Layout
from data.config import DataConfig
from data.conversation import where
from data.dataset import IGNORED, MixedDataset, Samples, check_shares, per_sample
from data.packing import advice
from data.pictures import Pictures
from data.problems import KINDS

BINS = 40  # of the histogram of lengths, at most
HIDDEN_SETTINGS = {"sources", "packing", "cache", "index_workers", "loader_workers"}


@dataclass(frozen=True, kw_only=True)
class Showing:
    """Which rows are shown; how they reach the model.

    Attributes:
        rows: How many, from the first on.
        source: Number in the recipe of the one source whose samples are shown; None: of all.
        micro_batch: Rows of one forward pass.
        layout: How the collator puts samples together.
    """

    rows: int = 8
    source: int | None = None
    micro_batch: int = 1
    layout: Layout = "padded"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The shortest text that whole tokens stand for: mostly one token, several where they share a character, all of a picture's.

    Attributes:
        text: What they say; of a picture "<image x576>".
        tokens: Their number.
        weight: Of each of them in the loss; 0: none.
        image: Whether they are a picture's.
    """

    text: str
    tokens: int
    weight: float
    image: bool = False


def describe(
    dataset: MixedDataset, sources: Sequence[Samples], config: DataConfig, tokenizer: Any, pictures: Pictures, showing: Showing
) -> dict[str, Any]:
    """Describes a plan; spells out its first rows.

    Args:
        dataset: The rows as training reads them.
        sources: Every source of the recipe, also those of which nothing is left, which the dataset lacks.
        config: The section they stand in.
        tokenizer: Turns ids back into text.
        pictures: How the model shows pictures.
        showing: What to spell out.

    Returns:
        `starts` with `why_not`; sizes of the plan; `packing` (length, fill, advice; None without); `padding_share`, tokens of batches
        that stand for nothing; `sources` with shares, epochs, kinds of bad records; `lengths`, a histogram; `shown`, the rows with
        their samples' text. `numbers` makes it fit for JSON.
    """
    plan, lengths = dataset.plan, dataset.lengths()
    origins = _origins(dataset, sources)
    return {
        **_verdict(sources, config),
        "rows": plan.rows,
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "micro_batch": showing.micro_batch,
        "samples": int(per_sample(dataset.sources, plan, "dialogues")[plan.members].sum()),
        "tokens": int(lengths.sum()),
        "max_length": config.longest,
        "packing": _packing(dataset, config, lengths),
        "padding_share": _padding(lengths, showing),
        "settings": config.model_dump(mode="json", exclude=HIDDEN_SETTINGS),
        "sources": _sources(dataset, sources, origins),
        "lengths": _histogram(dataset, sources, origins, config.longest),
        "only_source": showing.source,
        "shown": list(_rows(dataset, sources, origins, _Reader(tokenizer, pictures), showing)),
    }


def numbers(description: dict[str, Any]) -> dict[str, Any]:
    """A description fit for JSON: without pixels, texts in runs of tokens that carry loss of one weight."""
    rows = []
    for row in description["shown"]:
        samples = [{name: value for name, value in one.items() if name != "images"} for one in row["samples"]]
        for one in samples:
            one["runs"] = [{name: value for name, value in run.items() if name != "pieces"} for run in one["runs"]]
        rows.append(row | {"samples": samples})
    return description | {"shown": rows}


def pieces(
    ids: Sequence[int], weights: Sequence[float], tokenizer: Any, image_id: int | None, image_tokens: Sequence[int]
) -> Iterator[Piece]:
    """Decodes token by token, in context, so that neither blanks nor characters of several tokens are lost.

    Args:
        ids: Token ids of a sample.
        weights: Each token's in the loss.
        tokenizer: A fast tokenizer.
        image_id: The token that stands for pictures; None: there is none.
        image_tokens: Tokens of each picture.
    """
    from tokenizers.decoders import DecodeStream

    backend, stream = tokenizer.backend_tokenizer, DecodeStream(skip_special_tokens=False)
    held: list[int] = []  # tokens that may still lack the rest of a character
    counts, ahead, at = iter(image_tokens), "", 0
    while at < len(ids):
        image = ids[at] == image_id
        if held and (image or weights[at] != weights[at - 1]):
            # A text may end in a real U+FFFD, which looks like half of a character until the next token comes.
            begun = backend.decode(held, skip_special_tokens=False)
            yield Piece(text=begun, tokens=len(held), weight=weights[at - 1])
            held, ahead = [], ahead + begun
        text = stream.step(backend, ids[at])
        if image:
            count = next(counts)
            yield Piece(text=f"<image x{count}>", tokens=count, weight=0.0, image=True)
            ahead, at = "", at + count
            continue
        held.append(ids[at])
        if text is not None:
            yield Piece(text=text.removeprefix(ahead), tokens=len(held), weight=weights[at])
            held, ahead = [], ""
        at += 1
    if held:
        yield Piece(text=backend.decode(held, skip_special_tokens=False), tokens=len(held), weight=weights[-1])


def _verdict(sources: Sequence[Samples], config: DataConfig) -> dict[str, Any]:
    try:
        check_shares(sources, config.max_bad_share)
    except ValueError as error:
        return {"starts": False, "why_not": str(error)}
    return {"starts": True, "why_not": None}


def _packing(dataset: MixedDataset, config: DataConfig, lengths: np.ndarray) -> dict[str, Any] | None:
    if config.packing is None:
        return None
    length = config.packing.length
    if not len(lengths):
        return {"length": length, "fill": None, "advice": None}
    tokens, dialogues = (per_sample(dataset.sources, dataset.plan, name) for name in ("tokens", "dialogues"))
    return {
        "length": length,
        "fill": float(lengths.mean() / length),
        "advice": advice(float(tokens.sum() / dialogues.sum()), length),
    }


def _padding(lengths: np.ndarray, showing: Showing) -> float | None:
    """Share of the tokens of all batches that only make rows equally long."""
    if not len(lengths):
        return None
    if showing.layout == "flat":
        return 0.0
    batches = lengths.reshape(-1, showing.micro_batch)
    return float(1 - lengths.sum() / (batches.max(axis=1) * showing.micro_batch).sum())


def _origins(dataset: MixedDataset, sources: Sequence[Samples]) -> np.ndarray:
    """Number in the recipe of the source of each sample in the plan's rows."""
    places = [next(number for number, one in enumerate(sources) if one is used) for used in dataset.sources]
    return np.asarray(places, np.int64)[dataset.plan.order.positions[dataset.plan.members, 0]]


def _sources(dataset: MixedDataset, sources: Sequence[Samples], origins: np.ndarray) -> list[dict[str, Any]]:
    tokens, dialogues = (per_sample(dataset.sources, dataset.plan, name)[dataset.plan.members] for name in ("tokens", "dialogues"))
    samples = np.bincount(origins, weights=dialogues, minlength=len(sources))
    read = np.bincount(origins, weights=tokens, minlength=len(sources))
    return [
        {
            "number": number,
            "path": one.config.path,
            "format": one.config.format,
            "records": one.index.records,
            "bad_records": one.bad_records,
            "samples": len(one.rows),
            "unused": one.unused,
            "planned_samples": int(samples[number]),
            "planned_tokens": int(read[number]),
            "sample_share": float(samples[number] / max(samples.sum(), 1)),
            "token_share": float(read[number] / max(read.sum(), 1)),
            "epochs": float(samples[number] / len(one.rows)) if len(one) else 0.0,
            "kinds": {
                kind: {"count": count, "meaning": KINDS[kind], "first": next(p.message for p in one.problems if p.kind == kind)}
                for kind, count in one.kinds.items()
            },
        }
        for number, one in enumerate(sources)
    ]


def _histogram(dataset: MixedDataset, sources: Sequence[Samples], origins: np.ndarray, longest: int) -> dict[str, Any]:
    """How many samples of the plan are how long, by source; beside them those that were left out because they are longer."""
    tokens = per_sample(dataset.sources, dataset.plan, "tokens")[dataset.plan.members]
    indexed = np.concatenate([np.empty(0, np.int64), *(one.index.column("tokens") for one in sources)])
    too_long = indexed[indexed > longest]
    every = np.concatenate([tokens, too_long])
    if not len(every):
        return {"edges": [], "sources": [], "over_long": []}
    # Even steps of a logarithm show short texts beside pictures of thousands of tokens; no step is less than a token.
    edges = np.unique(np.geomspace(every.min(), every.max() + 1, BINS + 1).round().astype(np.int64))
    return {
        "edges": edges.tolist(),
        "sources": [np.histogram(tokens[origins == number], edges)[0].tolist() for number in range(len(sources))],
        "over_long": np.histogram(too_long, edges)[0].tolist(),
    }


def _rows(
    dataset: MixedDataset, sources: Sequence[Samples], origins: np.ndarray, reader: "_Reader", showing: Showing
) -> Iterator[dict[str, Any]]:
    plan = dataset.plan
    rows = np.arange(plan.rows)
    if showing.source is not None:
        rows = np.unique(np.repeat(rows, np.diff(plan.bounds))[origins == showing.source])
    for row in rows[: showing.rows].tolist():
        inside = list(zip(origins[plan.bounds[row] : plan.bounds[row + 1]].tolist(), plan.row(row).tolist(), strict=True))
        parts = [{"source": number, "tokens": int(sources[number].tokens[sample])} for number, (_, sample) in inside]
        yield {
            "row": row,
            "step": row // plan.batch_size + 1,
            "tokens": sum(part["tokens"] for part in parts),
            "parts": parts,
            "samples": [
                reader(dataset, source, sample) | {"source": number}
                for number, (source, sample) in inside
                if showing.source in (None, number)
            ],
        }


class _Reader:
    """Spells out samples."""

    def __init__(self, tokenizer: Any, pictures: Pictures) -> None:
        self._tokenizer, self._pictures = tokenizer, pictures
        self._image_id = None if pictures.none else tokenizer.convert_tokens_to_ids(pictures.token)

    def __call__(self, dataset: MixedDataset, source: int, number: int) -> dict[str, Any]:
        samples = dataset.sources[source]
        found = samples.index.table.select_columns(["record", "id"])[int(samples.rows[samples.bounds[number]])]
        about = found | {"path": samples.config.path, "place": where(samples.config.path, found["record"])}
        try:
            sample = dataset.sample(source, number)
        except RuntimeError as error:  # a picture that went away after indexing stops training, but not its preview
            about |= {"error": str(error), "tokens": int(samples.tokens[number]), "loss_tokens": 0, "image_tokens": 0}
            return about | {"pictures": [], "images": [], "runs": []}
        ids, carrying = sample["input_ids"].tolist(), (sample["labels"] != IGNORED).numpy()
        weights = [round(float(weight), 6) for weight in np.where(carrying, sample["weights"].numpy(), 0)]
        sizes = [image.shape[:2] for image in sample["images"]]
        counts = self._pictures.tokens(sizes) if sizes else []
        whole = pieces(ids, weights, self._tokenizer, self._image_id, counts)
        return about | {
            "error": None,
            "tokens": len(ids),
            "loss_tokens": int(carrying.sum()),
            "image_tokens": sum(counts),
            "pictures": [{"height": h, "width": w, "tokens": count} for (h, w), count in zip(sizes, counts, strict=True)],
            "images": sample["images"],
            "runs": [_run(list(group)) for _, group in groupby(whole, key=lambda piece: (piece.weight, piece.image))],
        }


def _run(group: Sequence[Piece]) -> dict[str, Any]:
    return {
        "text": "".join(piece.text for piece in group),
        "tokens": sum(piece.tokens for piece in group),
        "weight": group[0].weight,
        "image": group[0].image,
        "pieces": [piece.text for piece in group],
    }
