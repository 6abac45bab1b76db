"""Each data set, small but in its real form, becomes LLaVA records that the readers take."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from data.prepare import hub
from data.prepare.job import prepare
from data.prepare.spec import DatasetSpec, RemoteFile, Request
from data.prepare.table import SPECS
from data.prepare.timeclock import clock_time
from data.readers import read

SKILL_SETS = ("cub", "pixmo-count", "pathvqa", "textvqa", "timeclock")


def make_llava_558k(given: Path, picture, zip_of) -> None:
    turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": "a cat"}]
    records = [{"id": f"00453{n}", "image": f"00453/{n}.jpg", "conversations": turns} for n in range(3)]
    (given / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(records), encoding="utf-8")
    zip_of(given / "images.zip", {f"00453/{n}.jpg": picture(n) for n in range(2)})


def make_llava_665k(given: Path, picture, zip_of) -> None:
    places = ["coco/train2017/1.jpg", "coco/train2017/1.jpg", "gqa/images/2.jpg", "ocr_vqa/images/3.jpg", "ocr_vqa/images/4.jpg"]
    places += ["textvqa/train_images/5.jpg", "vg/VG_100K/6.jpg", "vg/VG_100K_2/7.jpg"]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    records = [{"id": Path(place).stem, "image": place, "conversations": turns} for place in places]
    records.append({"id": "wgByO4Y_0", "model": "", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
    (given / "llava_v1_5_mix665k.json").write_text(json.dumps(records), encoding="utf-8")
    zip_of(given / "train2017.zip", {"train2017/1.jpg": picture(1)})
    zip_of(given / "gqa_images.zip", {"images/2.jpg": picture(2)})
    zip_of(given / "ocr_vqa_images_llava_v15.zip", {"some/folder/4.gif": picture(4, "GIF")})
    zip_of(given / "train_val_images.zip", {"train_images/5.jpg": picture(5)})
    zip_of(given / "vg_images.zip", {"VG_100K/6.jpg": picture(6)})
    zip_of(given / "vg_images2.zip", {"VG_100K_2/7.jpg": picture(7)})


def make_cub(given: Path, picture, zip_of) -> None:
    classes = [f"{n:03d}.Black_footed_Bird_{n}" for n in range(1, 41)]
    names = [f"{classes[n % 40]}/Bird_{n}.jpg" for n in range(60)]
    texts = {
        "images.txt": [f"{n + 1} {name}" for n, name in enumerate(names)],
        "classes.txt": [f"{n + 1} {name}" for n, name in enumerate(classes)],
        "image_class_labels.txt": [f"{n + 1} {n % 40 + 1}" for n in range(60)],
        "train_test_split.txt": [f"{n + 1} {int(n % 3 > 0)}" for n in range(60)],
    }
    files = {f"CUB_200_2011/{name}": ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}
    files |= {f"CUB_200_2011/images/{name}": picture(n) for n, name in enumerate(names)}
    files |= {"CUB_200_2011/parts/parts.txt": b"-", "attributes.txt": b"-"}
    with tarfile.open(given / "CUB_200_2011.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def make_pixmo(given: Path, picture, zip_of) -> None:
    (given / "images").mkdir()
    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        rows = []
        for n in range(start, start + 4):
            name = hashlib.sha256(picture(n)).hexdigest()
            (given / "images" / f"{name}.jpg").write_bytes(picture(n))
            points = {"x": [1.0], "y": [2.0]}
            rows.append({"image_url": f"http://x/{n}", "image_sha256": name, "count": n + 1, "points": points, "label": "people"})
        (given / "data").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), given / f"data/{split}-00000-of-00001.parquet")


def make_pathvqa(given: Path, picture, zip_of) -> None:
    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        rows = [{"image": {"bytes": picture(start + n // 2), "path": None}, "question": f"where {n}?", "answer": "yes"} for n in range(6)]
        rows.append({"image": {"bytes": picture(start, "PNG"), "path": None}, "question": "what?", "answer": "a cell "})
        rows.append({"image": {"bytes": b"no picture", "path": None}, "question": "what?", "answer": "a cell"})
        parquet.write_table(pyarrow.Table.from_pylist(rows), given / f"{split}-00000-of-00003-abc.parquet")


def make_textvqa(given: Path, picture, zip_of) -> None:
    for split, start in (("train", 0), ("val", 10)):
        rows = [
            {
                "question_id": start + n,
                "image_id": f"id{start + n}",
                "question": "what is the brand?",
                "answers": ["nokia", "dell", "dell", *["nokia"] * 3, *["dakota"] * 4],
                "image_classes": ["Camera"],
                "set_name": split,
            }
            for n in range(4)
        ]
        content = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
        (given / f"TextVQA_0.5.1_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    zip_of(given / "train_val_images.zip", {f"train_images/id{n}.jpg": picture(n) for n in range(20)})


def make_timeclock(given: Path, picture, zip_of) -> None:
    for n, split in enumerate(("train", "valid", "test")):
        for label in ("1-05", "11-45"):
            folder = given / split / label
            folder.mkdir(parents=True)
            (folder / "01.jpg").write_bytes(picture(n))
    (given / "clocks.csv").write_text("class index,filepaths,labels,data set\n", encoding="utf-8")


MAKERS = {
    "llava-558k": make_llava_558k,
    "llava-665k": make_llava_665k,
    "cub": make_cub,
    "pixmo-count": make_pixmo,
    "pathvqa": make_pathvqa,
    "textvqa": make_textvqa,
    "timeclock": make_timeclock,
}


def small(spec: DatasetSpec) -> DatasetSpec:
    """The same data set without what is published about the real files' content."""
    return replace(spec, files=tuple(replace(file, size=None, checksum="") for file in spec.files))


@pytest.fixture
def made(tmp_path: Path, picture, zip_of, monkeypatch: pytest.MonkeyPatch):
    """Prepares a small data set by name; gives its folder."""

    def no_network(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "look_up", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)

    def make(name: str, output: str = "out", **options) -> Path:
        given = tmp_path / f"given-{name}"
        if not given.exists():
            given.mkdir()
            MAKERS[name](given, picture, zip_of)
        prepare(small(SPECS[name]), Request(output=tmp_path / output, source=given, progress=False, **options))
        return tmp_path / output

    return make


def records(folder: Path, split: str = "train") -> list[dict]:
    return json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))


def summary(folder: Path) -> dict:
    return json.loads((folder / "prepare.json").read_text(encoding="utf-8"))


def asked(record: dict) -> tuple[str, str]:
    question, answer = (turn["value"] for turn in record["conversations"])
    return question, answer


def test_every_data_set_has_a_small_one_here() -> None:
    assert set(MAKERS) == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_the_readers_take_every_split(made, name: str) -> None:
    folder = made(name)
    for split in summary(folder)["splits"]:
        conversations = list(read(folder / f"{split}.json"))
        assert len(conversations) == summary(folder)["splits"][split]["records"] > 0


@pytest.mark.parametrize("name", SPECS)
def test_every_picture_of_a_record_is_on_disk_below_the_output_folder(made, name: str) -> None:
    folder = made(name)
    images = [record["image"] for split in summary(folder)["splits"] for record in records(folder, split) if "image" in record]
    assert images
    assert all((folder / image).is_file() and not Path(image).is_absolute() for image in images)


@pytest.mark.parametrize("name", SPECS)
def test_ids_are_unique(made, name: str) -> None:
    folder = made(name)
    ids = [record["id"] for split in summary(folder)["splits"] for record in records(folder, split)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", SPECS)
def test_the_same_seed_writes_the_same_bytes(made, name: str) -> None:
    first, second = made(name), made(name, "again")
    for split in summary(first)["splits"]:
        assert (first / f"{split}.json").read_bytes() == (second / f"{split}.json").read_bytes()


@pytest.mark.parametrize("name", SPECS)
def test_a_limit_holds_for_each_split(made, name: str) -> None:
    folder = made(name, limit=1)
    assert all(split["records"] <= 1 for split in summary(folder)["splits"].values())
    assert summary(folder)["splits"]["train"]["records"] == 1 or summary(folder)["left_out"]


@pytest.mark.parametrize("name", SKILL_SETS)
def test_no_picture_is_in_two_splits(made, name: str) -> None:
    folder = made(name)
    assert "pictures in several splits" not in summary(folder)["counts"]


def test_captions_find_their_pictures_in_images_and_count_those_without(made) -> None:
    folder = made("llava-558k")
    assert [record["image"] for record in records(folder)] == ["images/00453/0.jpg", "images/00453/1.jpg"]
    assert summary(folder)["left_out"] == {"picture missing in images": 1}


def test_what_is_left_out_is_named_in_a_file(made) -> None:
    folder = made("llava-558k")
    left_out = json.loads((folder / "left_out.json").read_text(encoding="utf-8"))
    assert left_out == {"picture missing in images": ["004532: images/00453/2.jpg"]}


def test_a_broken_record_is_left_out_under_its_problem(tmp_path: Path, picture) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cat"}]
    whole = json.dumps({"id": "1", "image": "00/1.jpg", "conversations": turns})
    (tmp_path / "given/images/00").mkdir(parents=True)
    (tmp_path / "given/images/00/1.jpg").write_bytes(picture(1))
    (tmp_path / "given/blip_laion_cc_sbu_558k.json").write_text(f'[{whole}, {{"id": "\\ud83d"}}]', encoding="utf-8")
    found = prepare(small(SPECS["llava-558k"]), Request(output=tmp_path / "out", source=tmp_path / "given", progress=False))
    assert (found["splits"]["train"]["records"], found["left_out"]) == (1, {"not_utf8": 1})


def test_a_published_file_that_ends_early_is_refused(tmp_path: Path, picture) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cat"}]
    whole = json.dumps({"id": "1", "image": "00/1.jpg", "conversations": turns})
    (tmp_path / "given/images/00").mkdir(parents=True)
    (tmp_path / "given/images/00/1.jpg").write_bytes(picture(1))
    (tmp_path / "given/blip_laion_cc_sbu_558k.json").write_text(f"[{whole}, {whole[:-40]}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1: not valid JSON .* remove that file"):
        prepare(small(SPECS["llava-558k"]), Request(output=tmp_path / "out", source=tmp_path / "given", progress=False))


def test_repeated_ids_of_the_mixture_get_a_number_and_are_counted(made) -> None:
    folder = made("llava-665k")
    assert [record["id"] for record in records(folder)][:2] == ["1", "1#2"]
    assert summary(folder)["counts"]["repeated ids, made unique"] == 1


def test_the_mixture_keeps_its_folders_and_its_text(made) -> None:
    folder = made("llava-665k")
    images = [record.get("image") for record in records(folder)]
    assert images[2:] == [
        "gqa/images/2.jpg",
        "ocr_vqa/images/4.gif",
        "textvqa/train_images/5.jpg",
        "vg/VG_100K/6.jpg",
        "vg/VG_100K_2/7.jpg",
        None,
    ]


def test_a_lost_book_cover_is_left_out_by_name_of_its_folder(made) -> None:
    assert summary(made("llava-665k"))["left_out"] == {"picture missing in ocr_vqa": 1}


def test_pictures_that_are_unpacked_already_are_linked_not_copied(made, tmp_path: Path, picture) -> None:
    (tmp_path / "given-llava-665k").mkdir()
    MAKERS["llava-665k"](tmp_path / "given-llava-665k", picture, lambda path, files: None)
    for place in ("coco/train2017/1.jpg", "gqa/images/2.jpg", "textvqa/train_images/5.jpg", "vg/VG_100K/6.jpg", "vg/VG_100K_2/7.jpg"):
        (tmp_path / "given-llava-665k" / place).parent.mkdir(parents=True)
        (tmp_path / "given-llava-665k" / place).write_bytes(picture(1))
    (tmp_path / "given-llava-665k/ocr_vqa/images").mkdir(parents=True)
    folder = made("llava-665k")
    assert (folder / "coco/train2017").is_symlink()
    assert summary(folder)["splits"]["train"]["records"] == 7


def test_a_bird_is_one_of_26_choices_and_the_letter_is_right(made) -> None:
    record = records(made("cub"))[0]
    question, letter = asked(record)
    choices = dict(line.split(". ") for line in question.split("\n")[3:])
    assert len(set(choices.values())) == 26
    assert choices[letter] == record["species"] == "Black footed Bird 2"


def test_the_right_letter_is_spread_over_the_alphabet(made) -> None:
    assert len({asked(record)[1] for record in records(made("cub"))}) > 10


def test_each_bird_has_wrong_options_of_its_own(made) -> None:
    options = [frozenset(line[3:] for line in asked(record)[0].split("\n")[3:]) for record in records(made("cub"))]
    assert len(set(options)) == len(options)


def test_birds_keep_their_official_split(made) -> None:
    folder = made("cub")
    assert {split: one["records"] for split, one in summary(folder)["splits"].items()} == {"train": 40, "test": 20}


def test_another_seed_draws_other_choices(made) -> None:
    assert asked(records(made("cub"))[0]) != asked(records(made("cub", "other", seed=1))[0])


def test_the_choices_of_a_picture_do_not_depend_on_the_limit(made) -> None:
    (one,) = records(made("cub", "limited", limit=1))
    assert one in records(made("cub"))


def test_counting_asks_for_the_label_and_answers_in_a_sentence(made) -> None:
    few = [asked(record) for record in records(made("pixmo-count"))][:2]
    question = "<image>\nHow many people are in this image?"
    assert few == [(question, "There is 1 people in this image."), (question, "There are 2 people in this image.")]


def test_pathology_pictures_are_the_original_bytes_written_once_with_the_right_ending(made, picture) -> None:
    folder = made("pathvqa")
    train = records(folder)
    assert [Path(record["image"]).suffix for record in train] == [".jpg"] * 6 + [".png"]
    assert train[0]["image"] == train[1]["image"]
    assert (folder / train[0]["image"]).read_bytes() == picture(0)


def test_rows_without_a_picture_are_left_out(made) -> None:
    assert summary(made("pathvqa"))["left_out"] == {"no picture in the row": 3}


def test_text_questions_learn_the_commonest_answer_the_first_of_equals_and_keep_all_ten(made) -> None:
    record = records(made("textvqa"))[0]
    assert asked(record) == ("<image>\nwhat is the brand?", "nokia")
    assert len(record["answers"]) == 10


@pytest.mark.parametrize(("folder", "time"), [("1-05", "01:05"), ("11-45", "11:45"), ("3_00", "03:00"), ("train", None), ("1-75", None)])
def test_a_clock_folder_says_its_time(folder: str, time: str | None) -> None:
    assert clock_time(folder) == time


def test_clocks_answer_with_hours_and_minutes_of_two_digits(made) -> None:
    assert [asked(record)[1] for record in records(made("timeclock"))] == ["01:05", "11:45"]


def undivided(folder: Path, picture, count: int = 60) -> Path:
    (folder / "2-30").mkdir(parents=True)
    for n in range(count):
        (folder / "2-30" / f"{n}.jpg").write_bytes(picture(n))
        (folder / "2-30" / f"{n}-copy.jpg").write_bytes(picture(n))
    return folder


def test_an_undivided_folder_is_split_by_content_so_that_copies_never_part(tmp_path: Path, picture) -> None:
    given = undivided(tmp_path / "given", picture)
    prepare(SPECS["timeclock"], Request(output=tmp_path / "out", source=given, progress=False))
    contents = [
        {hashlib.sha256((tmp_path / "out" / record["image"]).read_bytes()).digest() for record in records(tmp_path / "out", split)}
        for split in ("train", "val", "test")
    ]
    assert all(contents)
    assert sum(map(len, contents)) == len(set().union(*contents)) == 60


def test_another_seed_splits_in_another_way(tmp_path: Path, picture) -> None:
    given = undivided(tmp_path / "given", picture)
    for seed in (0, 1):
        prepare(SPECS["timeclock"], Request(output=tmp_path / f"out{seed}", source=given, seed=seed, progress=False))
    assert records(tmp_path / "out0", "test") != records(tmp_path / "out1", "test")


def test_published_sizes_and_checksums_are_well_formed() -> None:
    lengths = {"md5": 32, "sha256": 64}
    for file in (file for spec in SPECS.values() for file in spec.files):
        assert isinstance(file, RemoteFile) and bool(file.url) != bool(file.hub)
        kind, _, value = file.checksum.partition(":")
        assert not file.checksum or len(value) == lengths[kind] and int(value, 16)
