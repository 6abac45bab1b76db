"""Indexes: built once, in parts, from any number of processes."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

import data.index as module
from data.chat import ChatFormat
from data.config import DataConfig, SourceConfig
from data.encode import Encoder
from data.index import Index, open_index
from data.pictures import pictures_of


@pytest.fixture(scope="module")
def format(tiny_folder: Path) -> ChatFormat:
    processor = AutoProcessor.from_pretrained(tiny_folder)
    return ChatFormat(tokenizer=processor.tokenizer, pictures=pictures_of(processor))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setenv("PERENNIAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Numbers of the records of each chunk that is encoded in this process."""
    calls: list[list[int]] = []
    original = Encoder.__call__

    def counting(self: Encoder, records: Sequence[Any]) -> Any:
        calls.append([number for number, _ in records])
        return original(self, records)

    monkeypatch.setattr(Encoder, "__call__", counting)
    return calls


def open_it(path: Path, format: ChatFormat, *, fresh: bool = False, workers: int = 1, **settings: Any) -> Index:
    source = SourceConfig(path=str(path), **settings)
    return open_index(source, DataConfig(sources=(source,), index_workers=workers), format, fresh=fresh, progress=False)


def rows(index: Index) -> list[dict[str, Any]]:
    return index.table.to_list()


def test_every_record_is_encoded_once_in_order(tiny_data: Path, format: ChatFormat, encoded: list[list[int]]) -> None:
    index = open_it(tiny_data, format)
    assert [number for chunk in encoded for number in chunk] == list(range(16)) == index.column("record").tolist()
    assert (index.records, index.problems) == (16, ())


def test_the_second_time_nothing_is_read(tiny_data: Path, format: ChatFormat, encoded: list[list[int]]) -> None:
    first = rows(open_it(tiny_data, format))
    encoded.clear()
    assert rows(open_it(tiny_data, format)) == first
    assert encoded == []


def test_rows_lie_in_files_and_not_in_memory(tiny_data: Path, format: ChatFormat) -> None:
    index = open_it(tiny_data, format)
    assert {Path(one["filename"]).parent for one in index.table.cache_files} == {index.folder}
    assert index.table.data.nbytes > 0
    assert not list(index.folder.glob("*.partial"))


def test_an_interrupted_build_goes_on_where_it_was(
    tiny_data: Path, format: ChatFormat, encoded: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = module.save_chunk

    def stop_at_third(*arguments: Any) -> Any:
        if arguments[2] == 2:
            raise KeyboardInterrupt
        return save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_chunk", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            open_it(tiny_data, format)
    encoded.clear()
    index = open_it(tiny_data, format)
    assert [chunk[0] for chunk in encoded] == [10, 15]
    assert index.column("record").tolist() == list(range(16))


def test_several_processes_build_the_same_index(
    tiny_data: Path, format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = open_it(tiny_data, format)
    monkeypatch.setenv("PERENNIAL_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(module, "ALONE", 0)
    together = open_it(tiny_data, format, workers=2)
    assert together.folder != alone.folder
    assert rows(together) == rows(alone)


def test_of_many_that_ask_at_once_one_builds(tiny_data: Path, format: ChatFormat, encoded: list[list[int]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_it(tiny_data, format), range(4)))
    assert len(encoded) == 4
    assert len({index.folder for index in found}) == 1


def test_another_content_template_or_setting_is_another_index(tiny_data: Path, format: ChatFormat) -> None:
    from copy import deepcopy
    from dataclasses import replace

    folders = [open_it(tiny_data, format).folder, open_it(tiny_data, replace(format, loss_on="all")).folder]
    tokenizer = deepcopy(format.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template + "{# another #}"
    folders.append(open_it(tiny_data, replace(format, tokenizer=tokenizer)).folder)
    tiny_data.write_text(tiny_data.read_text().replace("plus", "and"))
    folders.append(open_it(tiny_data, format).folder)
    assert len(set(folders)) == 4


def test_a_file_that_was_only_touched_keeps_its_index(tiny_data: Path, format: ChatFormat, encoded: list[list[int]]) -> None:
    open_it(tiny_data, format)
    encoded.clear()
    tiny_data.write_text(tiny_data.read_text())
    open_it(tiny_data, format)
    assert encoded == []


def test_fresh_reads_everything_again(tiny_data: Path, format: ChatFormat, encoded: list[list[int]]) -> None:
    first = rows(open_it(tiny_data, format))
    encoded.clear()
    assert rows(open_it(tiny_data, format, fresh=True)) == first
    assert len(encoded) == 4


def test_pictures_are_found_from_any_folder(tiny_data: Path, format: ChatFormat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tiny_data.parent)
    index = open_it(Path(tiny_data.name), format)
    monkeypatch.chdir(tmp_path)
    assert all(Path(image["path"]).is_file() for row in rows(index) for image in row["images"])
    assert sum(len(row["images"]) for row in rows(index)) == 8


def test_a_source_of_bad_records_alone_has_an_index_without_rows(tmp_path: Path, format: ChatFormat) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"conversations": []}] * 7))
    index = open_it(path, format)
    assert (index.table, index.records, len(index.problems)) == (None, 7, 7)
    assert index.column("record").tolist() == []


def test_the_hash_of_a_source_is_that_of_its_file(tiny_data: Path, format: ChatFormat) -> None:
    import hashlib

    assert open_it(tiny_data, format).sha256 == hashlib.sha256(tiny_data.read_bytes()).hexdigest()


def test_a_build_that_goes_on_looks_again_at_pictures_that_were_bad(
    tiny_data: Path, format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tiny_data.parent / "images" / "0.png"
    content = missing.read_bytes()
    missing.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module._Builder, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_it(tiny_data, format)
    missing.write_bytes(content)
    assert open_it(tiny_data, format).problems == ()


def test_a_chunk_whose_rows_were_lost_is_built_again(tiny_data: Path, format: ChatFormat) -> None:
    folder = open_it(tiny_data, format).folder
    (folder / "index.json").unlink()
    (folder / "chunk-00001.arrow").unlink()
    assert open_it(tiny_data, format).column("record").tolist() == list(range(16))


def test_pictures_inside_a_shard_are_found_from_any_folder(
    tiny_data: Path, format: ChatFormat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tarfile

    with tarfile.open(tiny_data.parent / "shard.tar", "w") as tar:
        (tmp_path / "one.txt").write_text("A square.")
        tar.add(tmp_path / "one.txt", "one.txt")
        tar.add(tiny_data.parent / "images" / "0.png", "one.png")
    monkeypatch.chdir(tiny_data.parent)
    index = open_it(Path("shard.tar"), format)
    assert [Path(image["path"]).is_absolute() for row in rows(index) for image in row["images"]] == [True]


def test_another_state_of_a_data_set_on_the_hub_is_another_index(format: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    import data.containers as containers

    def publish(answers: int) -> Index:
        turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
        published = Dataset.from_list([{"conversations": turns}] * answers)
        monkeypatch.setattr(containers, "_from_hub", lambda source: published)
        return open_it(Path("hub:someone/something"), format)

    class NoNetwork:
        def dataset_info(self, *_: object, **__: object) -> None:
            raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", NoNetwork)
    first, second = publish(4), publish(9)
    assert (first.records, second.records) == (4, 9)
    assert first.sha256 != second.sha256


def test_chunks_end_behind_so_many_bytes_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "CHUNK_BYTES", 25)
    records = [(number, {"image": {"bytes": b"0123456789"}}) for number in range(7)]
    assert [[number for number, _ in chunk] for chunk in module._chunks(records)] == [[0, 1, 2], [3, 4, 5], [6]]
