"""Indexed samples of several sources as one map-style dataset of rows."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.branches import join, merge, shared_tokens
from data.chat import ChatFormat
from data.config import DataConfig, SourceConfig
from data.conversation import where
from data.images import ImageCache, ImageSource
from data.index import Index, open_index
from data.mixture import Source
from data.pictures import Pictures
from data.plan import Plan, tokens_of
from data.problems import Problem

IGNORED = -100  # label of a token that carries no loss
PLACES = ("positions", "visible_until", "predictors")  # what a sample has whose dialogues part


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a source gives to train on.

    Attributes:
        index: All of its good records.
        rows: int64 [dialogues]: the index's rows that are used.
        bounds: int64 [samples + 1]: sample i holds `rows[bounds[i]:bounds[i + 1]]`; one row, unless dialogues of a tree are joined.
        tokens: int32 [samples]: tokens of each; those that its dialogues share count once.
        num_images: int32 [samples]: pictures of each.
        problems: Every bad record, with what the index cannot know: ids given twice, samples too long.
        repairs: How often each oddity was put right.
        unused: Good records left out by `max_records`.
    """

    index: Index
    rows: np.ndarray
    bounds: np.ndarray
    tokens: np.ndarray
    num_images: np.ndarray
    problems: tuple[Problem, ...]
    repairs: dict[str, int]
    unused: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def dialogues(self) -> np.ndarray:
        """How many dialogues each sample holds, int64 [samples]."""
        return np.diff(self.bounds)

    @property
    def config(self) -> SourceConfig:
        """The source."""
        return self.index.config

    @property
    def source(self) -> Source:
        """What mixing needs to know."""
        return Source(
            name=self.config.path,
            size=len(self),
            weight=self.config.weight,
            share=self.config.share,
            max_epochs=self.config.max_epochs,
            mean_dialogues=len(self.rows) / max(len(self), 1),
            mean_tokens=float(self.tokens.mean()) if len(self) else 1.0,
            text_only=not self.num_images.any(),
        )

    @property
    def bad_records(self) -> int:
        """How many records are bad; a split one may have several problems."""
        return len({problem.record for problem in self.problems})

    @property
    def kinds(self) -> dict[str, int]:
        """How many records are bad in each way."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())


def load_sources(
    config: DataConfig, tokenizer: Any, pictures: Pictures, *, seed: int = 0, fresh: bool = False, progress: bool = False
) -> list[Samples]:
    """Indexes every source of a recipe's `data` section, or opens its index.

    Args:
        config: The section.
        tokenizer: Its chat template gives ids and loss masks.
        pictures: How the model shows pictures.
        seed: Draws the records of sources with `max_records`; where a source stands among the others changes nothing.
        fresh: Read everything again.
        progress: Show bars.
    """
    found = []
    for source in config.sources:
        format = ChatFormat(tokenizer=tokenizer, pictures=pictures, loss_on=source.loss_on, turns=source.turns, thinking=config.thinking)
        index = open_index(source, config, format, fresh=fresh, progress=progress)
        found.append(select(index, config.longest, np.random.default_rng([seed, zlib.crc32(index.sha256.encode())])))
    return found


def select(index: Index, longest: int, draw: np.random.Generator) -> Samples:
    """The rows of an index that are trained on.

    Args:
        index: The index.
        longest: Tokens of the longest sample.
        draw: Draws those that stay under the source's `max_records`; of two draws alike, the smaller is part of the larger.
    """
    records, tokens, images = (index.column(name) for name in ("record", "tokens", "num_images"))
    problems, repairs, good = list(index.problems), dict(index.repairs), np.ones(len(records), bool)
    path = index.config.path
    if index.config.duplicate_ids == "allow":
        repairs |= {"duplicate_id": len(index.duplicates)} if index.duplicates else {}
    else:
        good &= ~np.isin(records, [record for record, _, _ in index.duplicates])
        for record, name, first in index.duplicates:
            message = (
                f"{where(path, record)}: its id {name!r} is that of record {first} as well; give it another, remove one of them, "
                "or set duplicate_ids: allow for this source if ids name pictures"
            )
            problems.append(Problem(source=path, record=record, kind="duplicate_id", message=message))
    for row in np.flatnonzero(good & (tokens > longest)):
        record = int(records[row])
        message = f"{where(path, record)}: {tokens[row]} tokens, more than data.max_length {longest}; raise it, or shorten the record"
        problems.append(Problem(source=path, record=record, kind="over_long", message=message))
    rows = np.flatnonzero(good & (tokens <= longest))
    used = rows
    if index.config.max_records is not None and len(rows) > index.config.max_records:
        used = np.sort(draw.permutation(rows)[: index.config.max_records])
    return Samples(
        index=index,
        rows=used,
        bounds=np.arange(len(used) + 1),
        tokens=tokens[used],
        num_images=images[used],
        problems=tuple(sorted(problems, key=lambda problem: problem.record)),
        repairs=repairs,
        unused=len(rows) - len(used),
    )


def join_trees(sources: Sequence[Samples], capacity: int) -> list[Samples]:
    """The same sources; of those that are trees, a sample holds several dialogues, with what they have in common once.

    Args:
        sources: From `load_sources`.
        capacity: Tokens of a row, which no sample may exceed.
    """
    return [_joined(one, capacity) if one.config.format == "tree" and len(one) else one for one in sources]


def _joined(samples: Samples, capacity: int) -> Samples:
    bounds, tokens = join(samples.tokens, shared_tokens(samples.index.table, samples.rows), capacity)
    return replace(samples, bounds=bounds, tokens=tokens, num_images=np.add.reduceat(samples.num_images, bounds[:-1]))


def check_shares(sources: Sequence[Samples], max_bad_share: float) -> None:
    """Fails where training must not start.

    Raises:
        ValueError: A source has nothing left, or more bad records than allowed; the message counts them by kind, names the first.
    """
    for one in sources:
        kinds = ", ".join(f"{count} {kind}" for kind, count in one.kinds.items())
        first = f" First: {one.problems[0].message}." if one.problems else ""
        if not len(one):
            raise ValueError(f"{one.config.path}: no record is left to train on ({kinds or 'the file is empty'}).{first}")
        if "broken_file" in one.kinds and max_bad_share < 1:
            broken = next(problem.message for problem in one.problems if problem.kind == "broken_file")
            raise ValueError(
                f"{broken}. Nobody knows how many records are lost; repair the file, or accept that with data.max_bad_share: 1"
            )
        if one.bad_records > max_bad_share * one.index.records:
            raise ValueError(
                f"{one.config.path}: {one.bad_records} of {one.index.records} records are bad ({kinds}), more than data.max_bad_share "
                f"{max_bad_share:g} allows.{first} `perennial validate` lists all; repair them, or raise the share"
            )


class MixedDataset(Dataset[list[dict[str, Any]]]):
    """The rows of a plan, each a list of samples."""

    def __init__(self, sources: Sequence[Samples], plan: Plan) -> None:
        self.sources = tuple(sources)
        self.plan = plan
        self.cache = ImageCache()
        self._tables = [one.index.table.with_format("arrow") for one in sources]

    def __len__(self) -> int:
        return self.plan.rows

    def __getitem__(self, row: int) -> list[dict[str, Any]]:
        """The samples of a row, see `sample`."""
        return [self.sample(int(source), int(number)) for source, number in self.plan.row(row)]

    def sample(self, source: int, number: int) -> dict[str, Any]:
        """One sample: `input_ids` and `labels`, int64 [tokens]; `weights`, float32 [tokens], each token's in the loss; `images`, a list of
        uint8 arrays [height, width, 3]; `source`, its number. Where dialogues part, also `positions`, `visible_until`, `predictors` of
        `data.branches.Branches`.

        Raises:
            RuntimeError: A picture can no longer be read, or is not the one that was indexed; the message names the record.
        """
        samples, table = self.sources[source], self._tables[source]
        rows = samples.rows[samples.bounds[number] : samples.bounds[number + 1]].tolist()
        found = table[rows[0]]
        ids, weights, places = _numbers(found, "input_ids"), _weights(found), {}
        if len(rows) > 1:
            others = [table[row] for row in rows[1:]]
            branches = merge([ids, *(_numbers(one, "input_ids") for one in others)], [weights, *map(_weights, others)])
            ids, weights = branches.input_ids, branches.weights
            if not branches.is_one_path:
                places = {name: torch.from_numpy(getattr(branches, name)) for name in PLACES}
        input_ids = torch.from_numpy(ids.astype(np.int64))
        weights_T = torch.from_numpy(weights)
        return {
            "input_ids": input_ids,
            "labels": torch.where(weights_T > 0, input_ids, IGNORED),
            "weights": weights_T,
            "images": self._images(found, source),
            "source": source,
            **places,
        }

    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [rows]."""
        return self.plan.per_row(per_sample(self.sources, self.plan, "tokens"))

    def _images(self, found: Any, source: int) -> list[np.ndarray]:
        images = found["images"][0].as_py()
        if not images:
            return []
        place = where(self.sources[source].config.path, found["record"][0].as_py())
        sizes = _numbers(found, "sizes").reshape(-1, 2)
        arrays = []
        for image, size in zip((ImageSource(**one) for one in images), sizes.tolist(), strict=True):
            try:
                array = self.cache(image)
            except (OSError, ValueError) as error:
                raise RuntimeError(
                    f"{place}: {error}. It could be read when it was indexed; `perennial validate` reads it again"
                ) from error
            if list(array.shape[:2]) != size:
                shape, before = (" x ".join(map(str, one)) for one in (array.shape[:2], size))
                raise RuntimeError(
                    f"{place}: image {image} is {shape} pixels, it was {before} when it was indexed; `perennial validate` reads it again"
                )
            arrays.append(array)
        return arrays


def per_sample(sources: Sequence[Samples], plan: Plan, name: str) -> np.ndarray:
    """A number ("tokens", "num_images", "dialogues") of each sample of a plan's order, int64 [samples]."""
    return tokens_of(plan.order, [getattr(one, name) for one in sources])


def _weights(found: Any) -> np.ndarray:
    """Each token's weight in the loss."""
    spans = _numbers(found, "spans")
    per_token = np.zeros(len(_numbers(found, "input_ids")), np.float32)
    for first, last, weight in zip(spans[::2].tolist(), spans[1::2].tolist(), _numbers(found, "weights").tolist(), strict=True):
        per_token[first:last] = weight
    per_token[:1] = 0  # nothing predicts the first token
    return per_token


def _numbers(found: Any, name: str) -> np.ndarray:
    """The one row of a column of lists, without a copy."""
    values: np.ndarray = found[name].chunk(0).flatten().to_numpy(zero_copy_only=True)
    return values
