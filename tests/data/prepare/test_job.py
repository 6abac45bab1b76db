"""The whole work: fetched, verified, unpacked, written; once."""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet

from data.prepare import describe, hub, job, pictures, textvqa
from data.prepare.job import prepare
from data.prepare.spec import DatasetSpec, RemoteFile, Request, Unpack
from data.prepare.table import SPECS, find
from data.prepare.work import Work
from train import prepare as command


@pytest.fixture
def spec(web, tmp_path: Path, picture, zip_of) -> DatasetSpec:
    """TextVQA with three questions a split, served by this machine."""
    files = []
    for split in ("train", "val"):
        data = [{"question_id": f"{split}{n}", "image_id": f"{split}{n}", "question": "what?", "answers": ["a"] * 10} for n in range(3)]
        name = f"TextVQA_0.5.1_{split}.json"
        content = json.dumps({"data": data}).encode()
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        files.append(RemoteFile(name=name, url=web.add(name, content), size=len(content), checksum=checksum))
    shown = {f"train_images/{split}{n}.jpg": picture(n) for split in ("train", "val") for n in range(3)}
    content = zip_of(tmp_path / "served.zip", shown).read_bytes()
    archive = Unpack(folder="images", gives="images", flat=True)
    files.append(RemoteFile(name="pictures.zip", url=web.add("pictures.zip", content), unpack=archive))
    return replace(SPECS["textvqa"], files=tuple(files))


def ask(folder: Path, **more: object) -> Request:
    return Request(output=folder, progress=False, **more)  # type: ignore[arg-type]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_data_set_is_fetched_unpacked_and_written(spec, tmp_path: Path) -> None:
    summary = prepare(spec, ask(tmp_path / "out"))
    assert {split: one["records"] for split, one in summary["splits"].items()} == {"train": 3, "val": 3}


def test_the_summary_says_what_was_fetched_with_checksums(spec, tmp_path: Path, web) -> None:
    prepare(spec, ask(tmp_path / "out"))
    files = {file["name"]: file for file in read(tmp_path / "out/prepare.json")["files"]}
    for name, content in web.files.items():
        assert files[name[1:]]["sha256"] == hashlib.sha256(content).hexdigest()
    assert files["pictures.zip"]["published_checksum"] is None


def test_a_second_call_asks_for_nothing_writes_nothing_and_says_so(spec, tmp_path: Path, web, capsys: pytest.CaptureFixture) -> None:
    prepare(spec, ask(tmp_path / "out"))
    web.asked.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepare(spec, Request(output=tmp_path / "out"))
    assert "already prepared" in capsys.readouterr().out
    assert web.asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_seed_writes_again_without_fetching_again(spec, tmp_path: Path, web) -> None:
    prepare(spec, ask(tmp_path / "out"))
    web.asked.clear()
    assert prepare(spec, ask(tmp_path / "out", seed=1))["seed"] == 1
    assert web.asked == []


def test_archives_may_be_deleted_once_they_are_unpacked(spec, tmp_path: Path, web) -> None:
    prepare(spec, ask(tmp_path / "out"))
    (tmp_path / "out/raw/pictures.zip").unlink()
    web.asked.clear()
    prepare(spec, ask(tmp_path / "out", limit=1))
    assert web.asked == []


def test_an_interrupted_call_goes_on_where_it_was(spec, tmp_path: Path, web, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    unpack = job.unpack
    monkeypatch.setattr(job, "unpack", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(spec, ask(tmp_path / "out"))
    monkeypatch.setattr(job, "unpack", unpack)
    web.asked.clear()
    assert prepare(spec, ask(tmp_path / "out"))["splits"]["train"]["records"] == 3
    assert web.asked == []


def test_a_split_that_was_deleted_is_written_again(spec, tmp_path: Path) -> None:
    prepare(spec, ask(tmp_path / "out"))
    (tmp_path / "out/val.json").unlink()
    prepare(spec, ask(tmp_path / "out"))
    assert (tmp_path / "out/val.json").is_file()


def test_a_wrong_checksum_is_an_error_that_leaves_nothing_behind(spec, tmp_path: Path) -> None:
    wrong = replace(spec.files[0], checksum=f"md5:{'0' * 32}")
    with pytest.raises(RuntimeError, match=r"TextVQA_0.5.1_train.json has the md5 [0-9a-f]{32}, published is 0{32}. It is deleted"):
        prepare(replace(spec, files=(wrong,)), ask(tmp_path / "out"))
    assert not (tmp_path / "out/raw/TextVQA_0.5.1_train.json").exists()


def test_a_wrong_size_is_an_error(spec, tmp_path: Path) -> None:
    wrong = replace(spec.files[0], size=7, checksum="")
    with pytest.raises(RuntimeError, match=r"has \d+ bytes, expected 7"):
        prepare(replace(spec, files=(wrong,)), ask(tmp_path / "out"))


def test_a_wrong_file_of_the_user_is_named_and_stays(spec, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/TextVQA_0.5.1_train.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"mine.TextVQA_0.5.1_train.json has 2 bytes.*Replace it"):
        prepare(spec, ask(tmp_path / "out", source=tmp_path / "mine"))
    assert (tmp_path / "mine/TextVQA_0.5.1_train.json").is_file()


def test_files_of_the_user_are_used_where_they_are(spec, tmp_path: Path, web) -> None:
    (tmp_path / "mine").mkdir()
    for name, content in web.files.items():
        (tmp_path / "mine" / name[1:]).write_bytes(content)
    prepare(spec, ask(tmp_path / "out", source=tmp_path / "mine"))
    assert web.asked == []
    assert [path.name for path in (tmp_path / "out/raw").iterdir()] == ["state.json"]


def test_a_folder_of_another_data_set_is_refused(spec, tmp_path: Path) -> None:
    prepare(spec, ask(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds textvqa, not cub"):
        prepare(SPECS["cub"], ask(tmp_path / "out"))


def test_a_full_disk_is_noticed_before_anything_is_fetched(spec, tmp_path: Path, web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(RuntimeError, match="make room or give another --output"):
        prepare(spec, ask(tmp_path / "out"))
    assert web.asked == []


def test_a_data_set_without_addresses_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timeclock cannot be fetched.*train/H-MM/\*.jpg.*--from DIR"):
        prepare(SPECS["timeclock"], ask(tmp_path / "out"))


class Hub:
    """Stands for the Hub's client: a repository with two fitting files."""

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, 0

    def dataset_info(self, _: str, files_metadata: bool) -> SimpleNamespace:
        self.asked += 1
        lfs = SimpleNamespace(sha256=hashlib.sha256(self.content).hexdigest())
        names = ("data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet")
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name, size=len(self.content), lfs=lfs) for name in names])

    def fetch(self, _: str, name: str, *, revision: str, local_dir: Path, **__: object) -> str:
        assert revision == "c0ffee"
        self.asked += 1
        target = local_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.content)
        return str(target)


@pytest.fixture
def from_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Hub, DatasetSpec]:
    import huggingface_hub

    served = Hub(b"rows")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served.fetch)
    pattern = "data/train-*.parquet"

    def convert(work: Work) -> dict:
        return {"train": [{"id": path.name, "conversations": []} for path in work.files[pattern]]}

    return served, replace(SPECS["pathvqa"], files=(RemoteFile(name=pattern, hub="someone/set"),), convert=convert)


def test_a_pattern_on_the_hub_gives_all_fitting_files(from_hub, tmp_path: Path) -> None:
    assert prepare(from_hub[1], ask(tmp_path / "out"))["splits"]["train"]["records"] == 2


def test_files_of_the_hub_keep_their_revision_and_the_hubs_own_checksum(from_hub, tmp_path: Path) -> None:
    file = prepare(from_hub[1], ask(tmp_path / "out"))["files"][0]
    assert file["address"] == "hf://datasets/someone/set@c0ffee/data/train-0.parquet"
    assert file["published_checksum"] == f"sha256:{hashlib.sha256(b'rows').hexdigest()}"


def test_the_hub_is_asked_once(from_hub, tmp_path: Path) -> None:
    served, spec = from_hub
    prepare(spec, ask(tmp_path / "out"))
    served.asked = 0
    prepare(spec, ask(tmp_path / "out", seed=3))
    assert served.asked == 0


def test_a_hub_that_cannot_be_reached_says_what_to_do(from_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(from_hub[0], "dataset_info", fail)
    with pytest.raises(RuntimeError, match=r"no route to host\. Check the network; .*--from DIR"):
        prepare(from_hub[1], ask(tmp_path / "out"))


def test_a_repository_without_the_file_is_named(from_hub) -> None:
    with pytest.raises(RuntimeError, match=r"someone/set has no file other\.zip"):
        hub.look_up("someone/set", "other.zip")


@pytest.fixture
def counting(web, tmp_path: Path, picture) -> Callable[..., tuple[Path, DatasetSpec]]:
    """PixMo-Count whose pictures this machine serves: one good, one gone, one replaced, one that is a web page by now."""

    def make() -> tuple[Path, DatasetSpec]:
        rows = []
        for n, served in enumerate((picture(0), None, picture(9), b"<html>gone</html>")):
            url = web.add(f"{n}.jpg", served) if served else f"{web.address}/{n}.jpg"
            name = hashlib.sha256(picture(n) if n < 3 else b"once a picture").hexdigest()
            rows.append({"image_url": url, "image_sha256": name, "count": 2, "label": "birds"})
        (tmp_path / "given").mkdir()
        for split in ("train", "validation", "test"):
            table = pyarrow.Table.from_pylist(rows if split == "train" else rows[:0], schema=pyarrow.Table.from_pylist(rows).schema)
            parquet.write_table(table, tmp_path / f"given/{split}-00000-of-00001.parquet")
        return tmp_path / "given", SPECS["pixmo-count"]

    return make


def test_pictures_of_the_web_are_checked_by_content_and_lost_ones_counted_by_reason(counting, tmp_path: Path) -> None:
    given, spec = counting()
    summary = prepare(spec, ask(tmp_path / "out", source=given))
    assert summary["splits"]["train"]["records"] == 1
    assert summary["left_out"] == {"picture gone": 1, "picture another picture by now": 1, "picture not a picture": 1}


def test_lost_pictures_are_not_asked_for_again(counting, tmp_path: Path, web) -> None:
    given, spec = counting()
    prepare(spec, ask(tmp_path / "out", source=given))
    web.asked.clear()
    prepare(spec, ask(tmp_path / "out", source=given, seed=1))
    assert web.asked == []


def test_unreachable_pictures_stop_the_work_which_another_call_finishes(counting, tmp_path: Path, web) -> None:
    given, spec = counting()
    web.statuses = [503] * 12
    with pytest.raises(RuntimeError, match=r"4 of 4 pictures could not be reached.*run the same command again"):
        prepare(spec, ask(tmp_path / "out", source=given))
    assert prepare(spec, ask(tmp_path / "out", source=given))["splits"]["train"]["records"] == 1


def test_a_broken_last_line_of_the_log_is_read_over(tmp_path: Path, picture) -> None:
    work = Work(root=tmp_path, files={})
    path = pictures.keep(picture(1), tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/pictures.jsonl").write_text(json.dumps({"sha256": "a", "file": path}) + '\n{"sha256": "b", "fi', encoding="utf-8")
    assert pictures.known(work) == {"a": {"file": path}}


def test_a_new_entry_stands_on_its_own_line_after_a_broken_one(counting, tmp_path: Path) -> None:
    given, spec = counting()
    (tmp_path / "out/raw").mkdir(parents=True)
    (tmp_path / "out/raw/pictures.jsonl").write_text('{"sha256": "b", "fi', encoding="utf-8")
    prepare(spec, ask(tmp_path / "out", source=given))
    assert len(pictures.known(Work(root=tmp_path / "out", files={}))) == 4


def called(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_list_names_all_data_sets_with_sizes_and_licences(capsys: pytest.CaptureFixture) -> None:
    assert called("--list") == 0
    shown = capsys.readouterr().out
    assert all(spec.name in shown and spec.licence in shown for spec in SPECS.values())


@pytest.mark.parametrize("name", SPECS)
def test_a_dry_run_fetches_nothing_and_writes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("socket.socket", None)
    assert called(name, "--dry-run", "--output", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert all(file.address in shown for file in SPECS[name].files)
    assert "Nothing was fetched" in shown
    assert not list(tmp_path.iterdir())


def test_a_dry_run_sees_what_is_there_already(spec, tmp_path: Path) -> None:
    (tmp_path / "out/raw").mkdir(parents=True)
    (tmp_path / "out/raw/pictures.zip.partial").write_bytes(b"1234")
    assert "to fetch, 4 bytes of it are there" in describe.plan(spec, ask(tmp_path / "out"))


def test_a_wrong_name_lists_the_right_ones_nearest_first() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'pathqa'; did you mean 'pathvqa'\? Known, nearest first: pathvqa, textvqa"):
        find("pathqa")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["textvqa"], "say where to"),
        ([], "say which data set: llava-558k"),
        (["textvqa", "--output", "x", "--from", "nowhere"], "--from nowhere is no folder"),
        (["textvqa", "--output", "x", "--limit", "0"], "--limit is 0"),
    ],
)
def test_a_request_that_does_not_fit_together_says_what_is_missing(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        called(*words)


def test_the_command_tells_what_it_wrote(spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(SPECS, "textvqa", spec)
    assert called("textvqa", "--output", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "train.json: 3 records, 3 pictures" in shown
    assert "pictures.zip: no published checksum; its sha256 is" in shown


def test_an_interruption_says_that_the_same_command_goes_on(spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Work) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(SPECS, "textvqa", replace(spec, convert=stop))
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        called("textvqa", "--output", str(tmp_path / "out"))


def test_an_interrupted_write_leaves_no_half_file(spec, tmp_path: Path) -> None:
    def broken(work: Work) -> dict:
        records = textvqa.convert(work)["train"]
        return {"train": (record | {"id": 1 / (index - 1)} for index, record in enumerate(records))}

    with pytest.raises(ZeroDivisionError):
        prepare(replace(spec, convert=broken), ask(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*train.json*"))
