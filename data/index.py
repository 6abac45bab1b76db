"""An index: every good record of a source as tokens in Arrow files, every bad one as a problem."""

import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import whole_file, write_json
from data.chat import ChatFormat
from data.config import HUB, DataConfig, SourceConfig
from data.containers import files_of, raw_records, state_of_hub
from data.conversation import where
from data.encode import Chunk, Encoder, RawRecord, Row, Work, state_of
from data.fingerprint import FileState, fingerprint, key_of
from data.problems import Problem

VERSION = 2  # of what the files hold; another one makes every index anew
CHUNK_BYTES = 64 * 2**20  # of pictures inside records: a chunk ends behind so many
CHUNK = 4096  # records: the unit of work, of a file, of what an interruption costs
ALONE = 3  # chunks that one process encodes before others, which take seconds to start, are called
MANIFEST = "index.json"
IN_PLACE = ".tar"  # files in which pictures stay: their place is part of the index
PROBES = ([(336, 336)], [(480, 640)], [(1200, 300)], [(224, 224), (640, 480)])  # (height, width) of pictures


@dataclass(frozen=True, kw_only=True)
class Index:
    """A source, read to its end.

    Attributes:
        config: The source.
        folder: Where the index lies.
        table: The rows, a memory-mapped `datasets.Dataset` (None without any): record, id, input_ids, spans, weights, images, sizes.
        records: Records in the source, bad ones included.
        problems: The bad ones, in order.
        repairs: How often each oddity was put right.
        duplicates: (record, id, first record) of each good record whose id an earlier good one has.
        files: The source's files.
    """

    config: SourceConfig
    folder: Path
    table: Any
    records: int
    problems: tuple[Problem, ...]
    repairs: dict[str, int]
    duplicates: tuple[tuple[int, str, int], ...]
    files: tuple[FileState, ...]

    @property
    def sha256(self) -> str:
        """Hash of the files' content; of one file, the file's own."""
        return self.files[0].sha256 if len(self.files) == 1 else key_of([one.sha256 for one in self.files])

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, whole."""
        return np.empty(0, np.int64) if self.table is None else self.table.data.column(name).to_numpy()


def cache_folder(chosen: str | None = None) -> Path:
    """Where indexes and hashes are kept: as chosen by `data.cache`, else $PERENNIAL_CACHE, else ~/.cache/perennial."""
    return Path(chosen or os.environ.get("PERENNIAL_CACHE") or Path.home() / ".cache" / "perennial").expanduser()


def states_of(source: SourceConfig, cache: Path) -> tuple[FileState, ...]:
    """The files behind a source with the hashes of their contents; for a data set on the hub its commit in place of a file's."""
    if source.path.startswith(HUB):
        return (FileState(name=source.path, size=0, sha256=state_of_hub(source)),)
    return fingerprint(files_of(source), cache)


def open_index(source: SourceConfig, config: DataConfig, format: ChatFormat, *, fresh: bool = False, progress: bool = True) -> Index:
    """Opens the index of a source; builds it where there is none for this content, processor, settings.

    Of several processes that ask at once, one builds while the others wait. An interrupted build goes on where it was.

    Args:
        source: The source.
        config: The section it stands in.
        format: How dialogues become tokens.
        fresh: Read everything again, as after a change of pictures, which the key does not cover.
        progress: Show a bar.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: It is of no kind that can be read.
    """
    from filelock import FileLock

    cache = cache_folder(config.cache)
    files = states_of(source, cache)
    work = _work(source, config, format, cache)
    folder = cache / "indexes" / _key(work, files, format)[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        stale = fresh or _is_stale(folder)
        if stale or not (folder / MANIFEST).exists():
            _Builder(folder, work, files, workers=config.index_workers or os.cpu_count() or 1, progress=progress).build(stale)
        return _open(folder, source, files)


def _work(source: SourceConfig, config: DataConfig, format: ChatFormat, cache: Path) -> Work:
    path = Path(source.path)
    root = Path(source.image_root) if source.image_root else path if path.is_dir() else path.parent
    return Work(
        source=source.model_copy(update={"image_root": str(root.absolute())}),
        format=replace(format, pictures=replace(format.pictures, image_processor=None)),
        cache=cache.absolute(),
        allow_urls=config.allow_urls,
        split_at=config.longest if config.over_long == "split" else None,
    )


def _key(work: Work, files: Sequence[FileState], format: ChatFormat) -> str:
    source = work.source
    return key_of(
        VERSION,
        [source.format, source.columns, source.split, source.revision, source.image_root],
        [[str(Path(one.name).absolute()) if one.name.endswith(IN_PLACE) else Path(one.name).name, one.sha256] for one in files],
        [_format_key(format), work.allow_urls, work.split_at],
    )


def _format_key(format: ChatFormat) -> str:
    """Hash of all that decides ids: tokenizer, template, the tokens of pictures (asked for, since their rules are the processor's own)."""
    pictures = format.pictures
    counts = [pictures.tokens(sizes) for sizes in PROBES] if pictures.needs_sizes else pictures.fixed
    settings = pictures.image_processor.to_json_string() if pictures.needs_sizes else None
    tokenizer = format.tokenizer
    return key_of(
        [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.all_special_tokens],
        [pictures.mark, pictures.token, counts, settings],
        [format.loss_on, format.turns, format.thinking],
    )


def _is_stale(folder: Path) -> bool:
    """Whether a complete index was made when a picture that could not be used was in another state than now."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return _changed(manifest["bad_files"])


def _changed(bad_files: dict[str, list[int]]) -> bool:
    return any(list(state_of(path)) != state for path, state in bad_files.items())


def _open(folder: Path, source: SourceConfig, files: tuple[FileState, ...]) -> Index:
    from datasets import Dataset

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    table = _mapped(folder, manifest["arrow"])
    problems = [
        Problem(source=source.path, record=record, kind=kind, message=f"{where(source.path, record)}: {message}")
        for record, kind, message in manifest["problems"]
    ]
    return Index(
        config=source,
        folder=folder,
        table=Dataset(table, fingerprint=folder.name) if table is not None else None,
        records=manifest["records"],
        problems=tuple(problems),
        repairs=manifest["repairs"],
        duplicates=tuple((record, name, first) for record, name, first in manifest["duplicates"]),
        files=files,
    )


def _mapped(folder: Path, names: Sequence[str]) -> Any:
    """The rows in Arrow files, mapped into memory; None without any.

    As `concatenate_datasets` of `Dataset.from_file`, which takes 7 ms a file for hashes that nothing here reads.
    """
    from datasets.table import MemoryMappedTable, concat_tables

    return concat_tables([MemoryMappedTable.from_file(str(folder / name)) for name in names]) if names else None


class _Builder:
    """Builds an index chunk by chunk; each is a file that appears whole."""

    def __init__(self, folder: Path, work: Work, files: Sequence[FileState], *, workers: int, progress: bool) -> None:
        self._folder, self._work, self._files, self._workers, self._progress = folder, work, files, workers, progress
        self._expected = 0  # records, as far as that can be told

    def build(self, fresh: bool) -> None:
        """Encodes what is not there yet; then writes the manifest."""
        (self._folder / MANIFEST).unlink(missing_ok=True)
        if fresh:
            for old in self._folder.iterdir():
                old.unlink()
        summaries = list(self._summaries())
        self._finish(summaries)

    def _summaries(self) -> Iterator[dict[str, Any]]:
        from tqdm import tqdm

        name = Path(self._work.source.path).name
        with tqdm(desc=f"indexing {name}", unit=" records", disable=not self._progress, leave=False, mininterval=0.5) as bar:
            for summary in self._encoded():
                if self._expected:
                    bar.total = max(self._expected, bar.n + summary["records"])
                bar.update(summary["records"])
                yield summary

    def _encoded(self) -> Iterator[dict[str, Any]]:
        """What each chunk came to, in order."""
        waiting: deque[Any] = deque()  # summaries, or futures of some
        encoder, pool = Encoder(self._work), None
        try:
            for number, records in enumerate(_chunks(raw_records(self._work.source))):
                if number == 0:
                    self._expected = _expected(self._files, records)
                known = self._known(number)
                if known is None and pool is None and number >= ALONE and self._workers > 1:
                    pool = _pool(self._work, self._workers)
                if known is not None or pool is None:
                    waiting.append(known or save_chunk(encoder(records), self._folder, number))
                else:
                    waiting.append(pool.submit(_encode_there, records, self._folder, number))
                while waiting and (len(waiting) > self._workers + 1 or not isinstance(waiting[0], Future)):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _known(self, number: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self._folder / f"chunk-{number:05}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        is_whole = found["arrow"] is None or (self._folder / found["arrow"]).is_file()
        return found if is_whole and not _changed(found["bad_files"]) else None

    def _finish(self, summaries: Sequence[dict[str, Any]]) -> None:
        repairs: Counter[str] = Counter()
        for one in summaries:
            repairs.update(one["repairs"])
        write_json(
            self._folder / MANIFEST,
            {
                "version": VERSION,
                "source": self._work.source.path,
                "files": [asdict(one) for one in self._files],
                "records": sum(one["records"] for one in summaries),
                "arrow": [one["arrow"] for one in summaries if one["arrow"]],
                "problems": list(itertools.chain.from_iterable(one["problems"] for one in summaries)),
                "repairs": {name: count for name, count in sorted(repairs.items()) if count},
                "duplicates": self._duplicates([one["arrow"] for one in summaries if one["arrow"]]),
                "bad_files": {path: state for one in summaries for path, state in one["bad_files"].items()},
            },
        )

    def _duplicates(self, names: Sequence[str]) -> list[tuple[int, str, int]]:
        table = _mapped(self._folder, names)
        if table is None:
            return []
        first: dict[str, int] = {}
        found = []
        for identity, record in zip(table.column("id").to_pylist(), table.column("record").to_pylist(), strict=True):
            if identity is not None and first.setdefault(identity, record) != record:
                found.append((record, identity, first[identity]))
        return list(dict.fromkeys(found))  # a record that was split stands there once


def save_chunk(chunk: Chunk, folder: Path, number: int) -> dict[str, Any]:
    """Writes an encoded chunk, the Arrow file first; gives what its JSON file says."""
    import pyarrow as pa

    name = f"chunk-{number:05}.arrow"
    if chunk.rows:
        table = _table(chunk.rows)
        with whole_file(folder / name) as partial, pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    summary = {
        "records": chunk.records,
        "arrow": name if chunk.rows else None,
        "problems": chunk.problems,
        "repairs": dict(chunk.repairs),
        "bad_files": chunk.bad_files,
    }
    write_json(folder / f"chunk-{number:05}.json", summary)
    return summary


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    image = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("data", pa.binary())])
    encoded = [row.encoded for row in rows]
    return pa.table(
        {
            "record": pa.array([row.record for row in rows], pa.int64()),
            "id": pa.array([row.id for row in rows], pa.string()),
            "tokens": pa.array([len(one.input_ids) for one in encoded], pa.int32()),
            "num_images": pa.array([len(row.images) for row in rows], pa.int32()),
            "input_ids": _lists([one.input_ids for one in encoded], np.int32),
            "spans": _lists([one.spans.reshape(-1) for one in encoded], np.int32),
            "weights": _lists([one.weights for one in encoded], np.float32),
            "images": pa.array([[asdict(one) for one in row.images] for row in rows], pa.list_(image)),
            "sizes": pa.array([list(itertools.chain.from_iterable(row.sizes)) for row in rows], pa.list_(pa.int32())),
        }
    )


def _lists(arrays: Sequence[Any], dtype: Any) -> Any:
    """Arrays as one column of large lists, without a Python object for each number."""
    import pyarrow as pa

    bounds = np.concatenate([[0], np.cumsum([len(one) for one in arrays])])
    return pa.LargeListArray.from_arrays(pa.array(bounds, pa.int64()), pa.array(np.concatenate(arrays).astype(dtype, copy=False)))


def _chunks(records: Iterable[RawRecord]) -> Iterator[list[RawRecord]]:
    chunk: list[RawRecord] = []
    held = 0
    for record in records:
        chunk.append(record)
        held += _bytes_in(record[1])
        if len(chunk) == CHUNK or held > CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _bytes_in(value: Any) -> int:
    """Bytes of the pictures inside a record."""
    if isinstance(value, bytes):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_bytes_in, parts))


def _expected(files: Sequence[FileState], records: Sequence[RawRecord]) -> int:
    """How many records files will hold, from the mean size of the first as JSON; 0 where that cannot be told."""
    try:
        mean = np.mean([len(json.dumps(raw, ensure_ascii=False).encode()) for _, raw in records[:64]])
    except (TypeError, ValueError):
        return 0
    return round(sum(one.size for one in files) / float(mean))


def _result(made: Any) -> dict[str, Any]:
    found: dict[str, Any] = made.result() if isinstance(made, Future) else made
    return found


# --- in another process ----------------------------------------------------------------------------------------------

_encoder: Encoder | None = None


def _pool(work: Work, workers: int) -> ProcessPoolExecutor:
    """Processes that start clean: forking one that has run torch's threads can hang."""
    import multiprocessing

    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(work,))


def _begin(work: Work) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoder = Encoder(work)


def _encode_there(records: list[RawRecord], folder: Path, number: int) -> dict[str, Any]:
    assert _encoder is not None
    return save_chunk(_encoder(records), folder, number)
