"""Every kind of file behind a source, whole or broken."""

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import json_records
from data.config import SourceConfig
from data.containers import files_of, raw_records
from data.conversation import Conversation
from data.images import ImageSource
from data.problems import BadRecord
from data.readers import stream
from data.shards import PICTURES_KEY

RECORDS: list[Any] = [{"id": 0, "text": "zero"}, {"id": 1, "text": "eins, zwei – 三"}, {"id": 2, "nested": [[], {"a": None}]}]


def records(path: Path | str, **source: Any) -> list[Any]:
    """The raw records of a source; positions are checked on the way."""
    found = list(raw_records(SourceConfig(path=str(path), **source)))
    assert [number for number, _ in found] == list(range(len(found)))
    return [raw for _, raw in found]


def kinds(found: Sequence[Any]) -> list[str | None]:
    return [raw.kind if isinstance(raw, BadRecord) else None for raw in found]


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lines(values: Sequence[Any]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "A.JSON"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n "])
def test_a_json_list_gives_its_elements(tmp_path: Path, name: str, indent: int | None, start: str) -> None:
    path = write(tmp_path / name, start + json.dumps(RECORDS, indent=indent, ensure_ascii=False))
    assert records(path) == RECORDS


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_json_lines_give_their_lines(tmp_path: Path, name: str, start: str) -> None:
    assert records(write(tmp_path / name, start + lines(RECORDS) + "\n\n")) == RECORDS


def test_lines_that_are_called_json_lines_may_be_a_list(tmp_path: Path) -> None:
    assert records(write(tmp_path / "a.jsonl", json.dumps(RECORDS))) == RECORDS


@pytest.mark.parametrize("content", ["", " \n", "[]", "[ \n ]"])
def test_a_file_of_nothing_holds_no_record(tmp_path: Path, content: str) -> None:
    assert records(write(tmp_path / "a.json", content)) == []


@pytest.mark.parametrize("number", ["0.5", "1e5", "1.25e-7", "-17", "12345678901234567890", "-Infinity"])
@pytest.mark.parametrize("block", range(1, 12))
def test_a_number_that_a_block_cuts_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, block: int) -> None:
    monkeypatch.setattr(json_records, "BLOCK", block)
    assert records(write(tmp_path / "a.json", f"[{number},{number}]")) == [json.loads(number)] * 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(values=st.lists(VALUES), block=st.integers(1, 40), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_a_list_is_read_the_same_wherever_its_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], block: int, indent: int | None, ascii: bool
) -> None:
    path = write(tmp_path_factory.mktemp("lists") / "a.json", json.dumps(values, indent=indent, ensure_ascii=ascii))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "BLOCK", block)
        assert records(path) == values


@pytest.mark.parametrize("block", [5, 4 * 2**20])
@pytest.mark.parametrize(
    ("content", "before", "message"),
    [
        ('[{"a": 1},\n {"a": 2,, "b": 3},\n {"a": 3}]', 1, "a.json line 2: not valid JSON"),
        ('[{"a": 1},\n {"a": 2}\n {"a": 3}]', 2, "line 3: not valid JSON (expected ',' or ']', column 2)"),
        ('[{"a": 1},\n {"a": 2}', 2, "line 2: not valid JSON (the file ends within the list, column 10)"),
        ('[{"a": 1},\n {"a":', 1, "line 2: not valid JSON (Expecting value, column 7)"),
        ('[{"a": 1},\n {"a', 1, "line 2: not valid JSON (Unterminated string starting at, column 3)"),
        ('[{"a": 1},\n]', 1, "line 2: not valid JSON (Expecting value, column 1)"),
        ('[{"a": 1}]\n[{"a": 2}]', 1, "line 2: not valid JSON (something stands behind the end of the list, column 1)"),
        ("[" + "[" * 200_000, 0, "line 1: not valid JSON"),
    ],
)
def test_a_broken_list_ends_with_the_place_of_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, before: int, message: str, block: int
) -> None:
    monkeypatch.setattr(json_records, "BLOCK", block)
    *good, last = records(write(tmp_path / "a.json", content))
    assert (len(good), kinds(good)) == (before, [None] * before)
    assert (last.kind, message in last.message) == ("broken_file", True), last.message
    assert "the rest of the file cannot be read" in last.message


def test_a_fault_is_found_without_reading_the_rest_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "BLOCK", 1000)
    path = write(tmp_path / "a.json", '[{"a": x},' + " " * 3_000_000 + "1]")
    tracemalloc.start()
    try:
        assert kinds(records(path)) == ["broken_file"]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_list_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "BLOCK", 5_000)
    path = write(tmp_path / "a.json", json.dumps([{"id": number, "text": "word " * 20} for number in range(5_000)]))
    tracemalloc.start()
    try:
        assert sum(1 for _ in raw_records(SourceConfig(path=str(path)))) == 5_000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b'{"a": 1,}', "broken_json", "line 2: not valid JSON"),
        (b'{"a": 1', "broken_json", "line 2: not valid JSON (Expecting ',' delimiter, column 8)"),
        (b'{"a": "\xff"}', "not_utf8", "line 2: byte 8 is not UTF-8"),
        (b'{"a": "\\ud83d"}', "not_utf8", "line 2: half of a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken_json", "line 2: not valid JSON"),
        (b'{"a": ' + b"[" * 200_000, "broken_json", "line 2: not valid JSON"),
    ],
)
def test_a_bad_line_is_one_bad_record_between_good_ones(tmp_path: Path, name: str, line: bytes, kind: str, message: str) -> None:
    good, bad, last = records(write(tmp_path / name, b'{"a": 0}\n' + line + b'\n{"a": 2}\n'))
    assert (good, last) == ({"a": 0}, {"a": 2})
    assert bad.kind == kind
    assert f"{name} {message}" in bad.message


def test_a_bad_first_line_is_no_reason_to_refuse_the_file(tmp_path: Path) -> None:
    assert kinds(records(write(tmp_path / "a.json", '{"a": \n{"a": 1}\n'))) == ["broken_json", None]


@pytest.mark.parametrize("half", [b"\xff", b"\\ud83d", b"\\uD83D x"])
@pytest.mark.parametrize("block", [7, 4 * 2**20])
def test_a_list_goes_on_behind_text_that_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bytes, block: int) -> None:
    monkeypatch.setattr(json_records, "BLOCK", block)
    path = write(tmp_path / "a.json", b'[{"a": "\\ud83d\\ude00"}, {"a": "' + half + b'"}, {"a": "\xc3\xa9"}]')
    found = records(path)
    assert kinds(found) == [None, "not_utf8", None]
    assert [found[0], found[2]] == [{"a": "😀"}, {"a": "é"}]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_around_the_records_is_refused_with_the_name_of_its_list(tmp_path: Path, indent: int | None) -> None:
    path = write(tmp_path / "a.json", json.dumps({"version": 1, "data": RECORDS}, indent=indent))
    with pytest.raises(ValueError, match=r"object with the keys version, data; expected a JSON list .* write the list in 'data' alone"):
        records(path)


def test_an_object_around_the_records_is_recognised_by_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "BLOCK", 64)
    path = write(tmp_path / "a.json", json.dumps({"version": 1, "data": RECORDS * 100}))
    with pytest.raises(ValueError, match="write the list in 'data' alone"):
        records(path)


def test_one_record_over_several_lines_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({"id": 1, "conversations": []}, indent=1))
    with pytest.raises(ValueError, match=r"keys id, conversations; .* put \[ and \] around it"):
        records(path)


@pytest.mark.parametrize(("record", "columns"), [({"conversations": []}, {}), ({"dialog": [{}]}, {"conversations": "dialog"})])
def test_a_file_of_one_line_that_is_a_record_is_read(tmp_path: Path, record: dict[str, Any], columns: dict[str, str]) -> None:
    assert records(write(tmp_path / "a.json", json.dumps(record)), columns=columns) == [record]


@pytest.mark.parametrize("content", ["3", '"text"', "true", "<html>", b"\xff\xfe[\0]\0"])
def test_what_is_neither_list_nor_lines_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(ValueError, match="expected a JSON list in UTF-8, or one JSON object a line"):
        records(write(tmp_path / "a.json", content))


def test_a_cut_off_packed_file_ends_with_a_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "BLOCK", 100)
    path = write(tmp_path / "a.json.gz", json.dumps([{"id": number, "text": str(hash((number, "x")))} for number in range(500)]))
    path.write_bytes(path.read_bytes()[:-40])
    *good, last = records(path)
    assert last.kind == "broken_file"
    assert f"behind its first {len(good)} records" in last.message


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(b"[{}]")
    with pytest.raises(ValueError, match=r"a\.json\.gz cannot be read: Not a gzipped file"):
        records(tmp_path / "a.json.gz")


# --- tables ----------------------------------------------------------------------------------------------------------


def parquet(path: Path, rows: Sequence[dict[str, Any]], schema: Any = None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return path


def test_parquet_gives_its_rows(tmp_path: Path) -> None:
    rows = [{"id": number, "image": {"bytes": b"pixels", "path": None}, "turns": [{"from": "human"}]} for number in range(600)]
    assert records(parquet(tmp_path / "a.parquet", rows)) == rows


def test_a_row_that_is_not_utf8_is_one_bad_record_between_good_ones(tmp_path: Path) -> None:
    import pyarrow as pa

    content = [b"zero", b"\xff\xfe", b"two"]
    text = pa.StringArray.from_buffers(3, pa.array([0, 4, 6, 9], pa.int32()).buffers()[1], pa.py_buffer(b"".join(content)))
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    found = records(tmp_path / "a.parquet")
    assert kinds(found) == [None, "not_utf8", None]
    assert found[2] == {"text": "two"}


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        records(write(tmp_path / "a.parquet", b"PAR1 and then nothing of the kind PAR1"))


def test_a_parquet_file_that_breaks_off_ends_with_a_bad_record(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(200)]}), path, row_group_size=100)
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset : column.dictionary_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(bytes(content))
    *good, last = records(path)
    assert (len(good), last.kind) == (100, "broken_file")
    assert "behind its first 100 records" in last.message


def png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def dataset() -> Any:
    """Two rows with pictures alone, in a list, deeper, beside text; the bytes are no pictures, so decoding them would fail."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "image": datasets.Image(),
            "images": datasets.List(datasets.Image()),
            "parts": datasets.List({"type": datasets.Value("string"), "image": datasets.Image()}),
        }
    )
    picture = {"bytes": b"no picture", "path": "a.png"}
    row = {"id": 1, "image": picture, "images": [picture, picture], "parts": [{"type": "image", "image": picture}]}
    return datasets.Dataset.from_list([row, {"id": 2, "image": None, "images": [], "parts": []}], features=features)


def test_pictures_of_a_saved_data_set_stay_bytes_wherever_they_stand(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    first, second = records(tmp_path / "saved")
    picture = {"bytes": b"no picture", "path": "a.png"}
    assert first == {"id": 1, "image": picture, "images": [picture, picture], "parts": [{"type": "image", "image": picture}]}
    assert second == {"id": 2, "image": None, "images": [], "parts": []}


def test_files_of_a_saved_data_set_are_those_that_hold_it(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "cache-123.arrow").touch()
    names = [file.name for file in files_of(SourceConfig(path=str(tmp_path / "saved")))]
    assert names == ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]


def test_a_split_of_a_saved_data_set_is_chosen(tmp_path: Path, dataset: Any) -> None:
    import datasets

    path = tmp_path / "saved"
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(path)
    assert (len(records(path)), len(records(path, split="test"))) == (2, 1)
    assert all(file.parent.name == "test" for file in files_of(SourceConfig(path=str(path), split="test")))
    with pytest.raises(ValueError, match=r"no split 'dev'; set split to one of train, test"):
        records(path, split="dev")


def test_a_split_of_a_data_set_without_splits_is_refused(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no splits, got split 'test'"):
        records(tmp_path / "saved", split="test")


def test_a_half_saved_data_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "dataset_info.json", "{}")
    with pytest.raises(ValueError, match=r"lacks state\.json; save it again"):
        records(tmp_path)


def test_a_data_set_on_the_hub_is_asked_for_by_name_split_and_revision(monkeypatch: pytest.MonkeyPatch, dataset: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **more: asked.append((names, more)) or dataset)
    source = {"path": "hub:owner/name", "split": "test", "revision": "abc"}
    assert [record["id"] for record in records(**source)] == [1, 2]
    assert asked == [(("owner/name",), {"split": "test", "revision": "abc"})]
    assert files_of(SourceConfig(**source)) == []


def test_a_hub_out_of_reach_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"owner/name cannot be had .*Couldn't reach.* hf download --repo-type dataset owner/name"):
        records("hub:owner/name")


# --- shards ----------------------------------------------------------------------------------------------------------


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


RECORD = b'{"id": "x", "conversations": []}'


def test_a_sample_is_its_json_with_its_pictures_as_places_in_the_shard(tmp_path: Path) -> None:
    first, second = b"first pixels", b"second"
    path = tar(tmp_path / "a.tar", [("in/x.JPG", first), ("in/x.json", RECORD), ("in/x.1.png", second), ("in/y.json", RECORD)])
    sample, without = records(path)
    assert (sample["id"], without) == ("x", json.loads(RECORD))
    assert {name: source.read() for name, source in sample[PICTURES_KEY].items()} == {"in/x.JPG": first, "in/x.1.png": second}
    assert all(source.path == str(path) and source.data is None for source in sample[PICTURES_KEY].values())


def test_names_end_at_the_first_dot_and_folders_keep_samples_apart(tmp_path: Path) -> None:
    members = [("a/1.json", RECORD), ("b/1.json", RECORD), ("b/1.0.jpg", b"x"), ("b/2.0.json", RECORD), ("b/.hidden", b"")]
    found = records(tar(tmp_path / "a.tar", members))
    assert kinds(found) == [None, None, "missing_turns"]
    assert list(found[1][PICTURES_KEY]) == ["b/1.0.jpg"]


def test_a_picture_with_its_caption_is_a_round(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("1.txt", "Ein Hündchen.\n".encode()), ("1.jpg", b"pixels")])
    (found,) = stream(SourceConfig(path=str(path)))
    assert isinstance(found, Conversation)
    assert [turn.text for turn in found.turns] == ["<image>", "Ein Hündchen."]
    assert (found.id, [image.read() for image in found.images]) == ("1", [b"pixels"])


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ([("1.jpg", b"x")], "missing_turns"),
        ([("1.txt", b"x")], "missing_turns"),
        ([("1.cls", b"3"), ("1.jpg", b"x")], "missing_turns"),
        ([("1.json", b"{"), ("1.jpg", b"x")], "broken_json"),
        ([("1.json", b'{"a": "\xff"}')], "not_utf8"),
        ([("1.txt", b"\xff"), ("1.jpg", b"x")], "not_utf8"),
    ],
)
def test_a_bad_sample_is_named_by_shard_and_key(tmp_path: Path, members: list[tuple[str, bytes]], kind: str) -> None:
    bad, good = records(tar(tmp_path / "a.tar", [*members, ("2.json", RECORD)]))
    assert (bad.kind, good) == (kind, json.loads(RECORD))
    assert bad.message.startswith("a.tar sample 1")


@pytest.mark.parametrize("blocks", [4, 5, 6])
def test_a_cut_off_shard_ends_with_a_bad_record(tmp_path: Path, blocks: int) -> None:
    path = tar(tmp_path / "a.tar", [("1.json", RECORD), ("2.json", RECORD), ("3.json", RECORD)])
    path.write_bytes(path.read_bytes()[: 512 * blocks + 100 * (blocks % 2)])
    found = records(path)
    assert kinds(found)[-1] == "broken_file"
    assert kinds(found)[0] is None


def test_a_shard_with_a_broken_header_ends_with_a_bad_record(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("1.json", RECORD), ("2.json", RECORD), ("3.json", RECORD)])
    content = bytearray(path.read_bytes())
    content[2048:2148] = b"?" * 100
    path.write_bytes(bytes(content))
    assert kinds(records(path)) == [None, "broken_file"]


def test_a_shard_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tar cannot be read"):
        records(write(tmp_path / "a.tar", b"version https://git-lfs.github.com/spec/v1\n" * 20))


# --- which files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/*.jsonl", "/part-?.jsonl", "/part-[0-2].jsonl", "/part-{0..2}.jsonl", "/**/part-*.jsonl"])
def test_files_of_a_folder_or_pattern_are_read_in_order_as_one_source(tmp_path: Path, path: str) -> None:
    for number in (2, 0, 1):
        write(tmp_path / f"part-{number}.jsonl", lines([{"id": f"{number}a"}, {"id": f"{number}b"}]))
    write(tmp_path / "README.md", "Not a record.")
    write(tmp_path / ".part-3.jsonl", "hidden")
    assert [record["id"] for record in records(f"{tmp_path}{path}")] == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_a_range_keeps_its_zeros_and_misses_no_file(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write(tmp_path / f"{number:03}.json", "[{}]")
    assert [file.name for file in files_of(SourceConfig(path=f"{tmp_path}/{{008..010}}.json"))] == ["008.json", "009.json", "010.json"]
    with pytest.raises(FileNotFoundError, match=r"011\.json does not exist"):
        records(f"{tmp_path}/{{008..011}}.json")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    assert records(write(tmp_path / "a[1].json", "[{}]")) == [{}]


def test_a_bad_record_is_counted_on_over_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "{}\nx\n")
    write(tmp_path / "b.jsonl", "y\n{}\n")
    found = records(tmp_path)
    assert kinds(found) == [None, "broken_json", "broken_json", None]
    assert found[2].message.startswith("b.jsonl line 1:")


def test_files_of_several_kinds_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.json", "[]")
    write(tmp_path / "b.jsonl", "")
    with pytest.raises(ValueError, match=r"several kinds: JSON \(a\.json\), JSON lines \(b\.jsonl\)"):
        records(tmp_path)


@pytest.mark.parametrize(("name", "remedy"), [("a.jsonl.zst", "zstd -d"), ("a.tar.gz", "gunzip"), ("a.tgz", "gunzip")])
@pytest.mark.parametrize("in_folder", [True, False])
def test_a_packed_file_is_refused_with_what_unpacks_it(tmp_path: Path, name: str, remedy: str, in_folder: bool) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"unpack it first: {remedy} {name}"):
        records(tmp_path if in_folder else tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "instruct"])
def test_a_file_of_no_known_kind_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"of no kind that is read; expected a name that ends in \.json"):
        records(tmp_path / name)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no data file"):
        records(tmp_path)


@pytest.mark.parametrize("format", ["llava", "tree"])
@pytest.mark.parametrize("read", [records, lambda path, **more: files_of(SourceConfig(path=str(path), **more))])
def test_a_path_that_leads_nowhere_is_named(tmp_path: Path, read: Any, format: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json does not exist; check the path in the recipe's data\.sources"):
        read(tmp_path / "nothing.json", format=format)
    with pytest.raises(FileNotFoundError, match=r"no data file matches .*\*\.json"):
        read(tmp_path / "*.json", format=format)


# --- trees -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One question with an answer, on which two dialogues go on."""
    from data.trees.folder import TreeFolder
    from data.trees.nodes import Node
    from data.trees.shards import Shard, Tally, stage_name

    folder = TreeFolder(tmp_path / "tree", {}, {"sizes": []}, {})
    folder.begin()
    ids = [["0", "1"], ["0.0", "1.0"], ["0.0.0", "0.0.1"], ["0.0.0.0", "0.0.1.0"]]
    for layer, names in enumerate(ids):
        nodes = [
            Node(
                id=name,
                parent=name.rpartition(".")[0] or None,
                layer=layer,
                role="assistant" if layer % 2 else "user",
                text=f"text {name}",
                tokens=1,
                seed=0,
                logprob=0.0,
                finish_reason="stop",
                system=None if layer else "Be brief.",
            )
            for name in names
        ]
        tallies = {layer: Tally(sampled=2, kept=2, tokens=2)}
        stage = stage_name(layer, 0)
        folder.commit(Shard(growth=0, stage=stage, block=0, tallies=tallies, attempts={}, seconds=0.0, nodes=tuple(nodes)))
    folder.finish()
    folder.close()
    return tmp_path / "tree"


def test_each_turn_of_a_tree_weighs_one_in_all_its_dialogues(tree: Path) -> None:
    total: dict[str, float] = {}
    for found in stream(SourceConfig(path=str(tree), format="tree")):
        assert isinstance(found, Conversation)
        for turn in found.turns[1:]:
            total[turn.text] = total.get(turn.text, 0) + turn.weight
    assert len(total) == 8
    assert set(total.values()) == {1}


def test_dialogues_of_a_tree_begin_with_its_system_prompt(tree: Path) -> None:
    found = [
        [turn.text for turn in one.turns] for one in stream(SourceConfig(path=str(tree), format="tree")) if isinstance(one, Conversation)
    ]
    assert [turns[0] for turns in found] == ["Be brief."] * 3
    assert sorted(turns[-1] for turns in found) == ["text 0.0.0.0", "text 0.0.1.0", "text 1.0"]


def test_files_of_a_tree_are_its_nodes_with_their_manifest(tree: Path) -> None:
    files = files_of(SourceConfig(path=str(tree), format="tree"))
    assert [file.name for file in files] == ["manifest.json", *(f"g00-l0{layer}-r000-b000000.jsonl" for layer in range(4))]


def test_a_tree_under_another_format_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="is a tree folder, its format is 'llava'; set format: tree"):
        records(tree)


def test_what_is_no_tree_under_the_format_of_trees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no tree folder: it lacks"):
        records(write(tmp_path / "a.json", "[]"), format="tree")


# --- all the way to pictures -----------------------------------------------------------------------------------------


def test_pictures_of_every_container_can_be_opened(tmp_path: Path, dataset: Any) -> None:
    from data.images import load_image

    picture, turns = png(), [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Black."}]
    parquet(tmp_path / "a.parquet", [{"image": {"bytes": picture, "path": None}, "conversations": turns}])
    tar(tmp_path / "a.tar", [("1.png", picture), ("1.json", json.dumps({"image": "1.png", "conversations": turns}).encode())])
    write(tmp_path / "1.png", picture)
    write(tmp_path / "a.json", json.dumps([{"image": "1.png", "conversations": turns}]))
    for name in ("a.parquet", "a.tar", "a.json"):
        (found,) = stream(SourceConfig(path=str(tmp_path / name)))
        assert isinstance(found, Conversation)
        assert isinstance(found.images[0], ImageSource)
        assert load_image(found.images[0]).shape == (2, 2, 3)
