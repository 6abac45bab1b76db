"""Containers turn the files behind a source into raw records."""

import itertools
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.config import HUB, SourceConfig
from data.json_records import Raw, read_json, read_json_lines
from data.problems import BadRecord
from data.shards import read_tar
from data.trees.folder import MANIFEST, SHARDS, is_tree

ENDINGS = {
    ".json": "JSON",
    ".json.gz": "JSON",
    ".jsonl": "JSON lines",
    ".jsonl.gz": "JSON lines",
    ".ndjson": "JSON lines",
    ".ndjson.gz": "JSON lines",
    ".parquet": "Parquet",
    ".tar": "tar",
}
PACKED = {".zst": "zstd -d", ".tar.gz": "gunzip", ".tgz": "gunzip", ".zip": "unzip", ".xz": "unxz", ".bz2": "bunzip2"}
TURN_KEYS = frozenset({"conversations", "messages", "question", "text"})  # what tells a record from an object around records
ROWS = 256  # rows of a table that are Python objects at once


def raw_records(source: SourceConfig) -> Iterator[tuple[int, Raw]]:
    """Every record of a source with its position in the whole source; a `BadRecord` where one cannot be parsed.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: It is of no kind that can be read.
    """
    return enumerate(_records(source))


def files_of(source: SourceConfig) -> list[Path]:
    """The local files behind a source, sorted; none for a data set on the hub. Raises as `raw_records` does."""
    path = Path(source.path)
    if source.path.startswith(HUB):
        return []
    if path.exists() and (source.format == "tree") != is_tree(path):
        if is_tree(path):
            raise ValueError(f"{path} is a tree folder, its format is {source.format!r}; set format: tree")
        raise ValueError(f"{path} is no tree folder: it lacks manifest.json or shards/; give the output of: perennial generate")
    if is_tree(path):
        return [path / MANIFEST, *sorted((path / SHARDS).glob("*.jsonl"))]
    return _files_of_saved(_split(path, source)) if _is_saved(path) else _data_files(source.path)


def _records(source: SourceConfig) -> Iterator[Raw]:
    files, path = files_of(source), Path(source.path)
    if source.path.startswith(HUB):
        yield from _rows_of_dataset(_from_hub(source))
    elif is_tree(path):
        yield from _dialogues(path)
    elif _is_saved(path):
        yield from _rows_of_dataset(_from_disk(_split(path, source)))
    else:
        known = TURN_KEYS | set(source.columns.values())
        for file in files:
            yield from _until_broken(CONTAINERS[_kind(file)](file, known), file)


def _until_broken(records: Iterable[Raw], file: Path) -> Iterator[Raw]:
    """The records of a file; one last `BadRecord` where it cannot be read any further."""
    count = 0
    try:
        for count, record in enumerate(records, start=1):  # noqa: B007 - the error tells how many there were
            yield record
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if not count:
            raise ValueError(f"{file} cannot be read: {error}; replace the file, or remove it from the recipe's data.sources") from error
        yield BadRecord("broken_file", f"{file.name} cannot be read behind its first {count:,} records ({error}); replace the file")


# --- which files -----------------------------------------------------------------------------------------------------


def _data_files(path: str) -> list[Path]:
    """The files of one kind that a path names: itself, those of a folder, those that match a pattern."""
    if Path(path).is_dir():
        files = {one for one in Path(path).iterdir() if one.is_file() and not one.name.startswith(".") and _is_data(one)}
        if not files:
            raise ValueError(f"folder {path} holds no data file; expected files that end in {', '.join(ENDINGS)}, or a saved data set")
    else:
        files = {Path(path)} if Path(path).is_file() else set(_matching(path))
        if not files:
            raise FileNotFoundError(f"no data file matches {path}; check the pattern in the recipe's data.sources")
    for file in sorted(files):
        if not file.is_file():
            raise FileNotFoundError(f"data file {file} does not exist; check the path in the recipe's data.sources")
    kinds = {_kind(file): file.name for file in sorted(files, reverse=True)}
    if len(kinds) > 1:
        found = ", ".join(f"{kind} ({name})" for kind, name in sorted(kinds.items()))
        raise ValueError(f"{path} holds files of several kinds: {found}; give a pattern that names one kind, such as *.parquet")
    return sorted(files)


def _matching(pattern: str) -> Iterator[Path]:
    """The files behind a pattern; a range such as shard-{000..012}.tar stands for each of its names, there or not."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        root = Path(Path(pattern).anchor)
        if any(mark in pattern for mark in "*?["):
            yield from (one for one in root.glob(str(Path(pattern).relative_to(root))) if one.is_file() and not one.name.startswith("."))
        else:
            yield Path(pattern)
        return
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f"{pattern}: the range {found[0]} counts down; write {{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        yield from _matching(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def _ending(file: Path, endings: Iterable[str]) -> str | None:
    return next((one for one in endings if file.name.lower().endswith(one)), None)


def _is_data(file: Path) -> bool:
    """Whether a file of a folder is meant: packed ones are, so that none is passed over."""
    return _ending(file, [*ENDINGS, ".zst", ".tar.gz", ".tgz"]) is not None


def _kind(file: Path) -> str:
    packed, ending = _ending(file, PACKED), _ending(file, ENDINGS)
    if packed is not None:
        raise ValueError(f"{file}: {packed} files are not read; unpack it first: {PACKED[packed]} {file.name}")
    if ending is None:
        raise ValueError(f"{file} is of no kind that is read; expected a name that ends in {', '.join(ENDINGS)}")
    return ENDINGS[ending]


# --- tables ----------------------------------------------------------------------------------------------------------


def _parquet(file: Path, known: Collection[str]) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as opened:
            for group in range(opened.num_row_groups):  # one by one: a batch over two of them would fall with the second
                for batch in opened.iter_batches(batch_size=ROWS, row_groups=[group]):
                    yield from _rows(batch)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _rows(batch: Any) -> list[Raw]:
    """The rows of a part of a table; what a column of text holds is not always UTF-8."""
    try:
        rows: list[Raw] = batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            message = f"a column of text holds bytes that are not UTF-8 ({error.reason}); write the file again, or remove the record"
            return [BadRecord("not_utf8", message)]
        return list(itertools.chain.from_iterable(_rows(batch.slice(row, 1)) for row in range(len(batch))))
    return rows


def _rows_of_dataset(dataset: Any) -> Iterator[Raw]:
    import datasets

    features = datasets.Features({name: _undecoded(feature) for name, feature in dataset.features.items()})
    for table in dataset.with_format("arrow").iter(batch_size=ROWS):
        for row in _rows(table):
            yield row if isinstance(row, BadRecord) else features.decode_example(row)


def _undecoded(feature: Any) -> Any:
    """A feature whose pictures stay bytes, wherever in it they stand."""
    if isinstance(feature, dict):
        return {name: _undecoded(part) for name, part in feature.items()}
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    is_json = type(feature).__name__ == "Json"  # a class that the oldest `datasets` we allow does not have
    return replace(feature, decode=False) if hasattr(feature, "decode") and not is_json else feature


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_info.json", "dataset_dict.json"))


def _split(folder: Path, source: SourceConfig) -> Path:
    """The folder of one split of a saved data set."""
    if not (folder / "dataset_dict.json").is_file():
        if source.split is not None:
            raise ValueError(f"data set {folder} has no splits, got split {source.split!r}; remove it from the recipe's data.sources")
        return folder
    splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    split = source.split or "train"
    if split not in splits:
        raise ValueError(f"data set {folder} has no split {split!r}; set split to one of {', '.join(splits)}")
    return folder / split


def _files_of_saved(folder: Path) -> list[Path]:
    state = folder / "state.json"
    if not state.is_file():
        raise ValueError(f"{folder} is no whole data set: it lacks state.json; save it again with save_to_disk of `datasets`")
    names = [one["filename"] for one in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    return sorted([state, *(folder / name for name in ("dataset_info.json", *names))])


def _from_disk(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ValueError(f"data set {folder} cannot be read: {error}; save it again with save_to_disk of `datasets`") from error


def _from_hub(source: SourceConfig) -> Any:
    import datasets

    name = source.path.removeprefix(HUB)
    try:
        return datasets.load_dataset(name, split=source.split or "train", revision=source.revision)
    except OSError as error:
        command = f"hf download --repo-type dataset {name} --local-dir DIR"
        raise ValueError(
            f"data set {name} cannot be had from the hub ({error}); check its name and the network, or run on a machine that has one: "
            f"{command}; then give the path of the data files in DIR as the source"
        ) from error


def state_of_hub(source: SourceConfig) -> str:
    """The commit of a data set on the hub; without a network, the hash that `datasets` gives the copy in its cache."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(source.path.removeprefix(HUB), revision=source.revision).sha
    except (OSError, ValueError):
        found = None
    return str(found) if found else str(_from_hub(source)._fingerprint)


# --- trees -----------------------------------------------------------------------------------------------------------


def _dialogues(folder: Path) -> Iterator[Raw]:
    """The dialogues of a tree; a turn that several of them share counts as one in all, by its weight."""
    from data.trees.export import paths, to_llava, weights
    from data.trees.folder import read_manifest, read_tree

    if read_manifest(folder)["status"] != "complete":
        raise ValueError(f"{folder} holds a tree that is still growing; let perennial generate finish it first")
    # Depth first, also where branches end in different layers: those that share most stand side by side, for rows that hold several.
    dialogues = sorted(paths(read_tree(folder).nodes), key=lambda path: [int(number) for number in path[-1].id.split(".")])
    yield from map(to_llava, dialogues, weights(dialogues))


CONTAINERS: dict[str, Callable[[Path, Collection[str]], Iterator[Raw]]] = {
    "JSON": read_json,
    "JSON lines": read_json_lines,
    "Parquet": _parquet,
    "tar": read_tar,
}
