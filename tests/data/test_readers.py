"""LLaVA files as they are found in the wild."""

import json
from pathlib import Path

import pytest

from data.conversation import Turn
from data.readers import read

ASK = {"from": "human", "value": "What?"}
TELL = {"from": "gpt", "value": "That."}


def write(folder: Path, records: object, name: str = "instruct.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_a_record_keeps_its_turns_in_order_with_their_roles(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    (one,) = read(write(tmp_path, [{"id": "a", "conversations": [system, ASK, TELL]}]))
    assert one.turns == (Turn(role="system", text="Be brief."), Turn(role="user", text="What?"), Turn(role="assistant", text="That."))


@pytest.mark.parametrize(("given", "expected"), [(7, "7"), ("seven", "seven"), (None, "1")])
def test_ids_may_be_numbers_words_or_missing(tmp_path: Path, given: object, expected: str) -> None:
    records = [{"conversations": [ASK, TELL]}, {"conversations": [ASK, TELL]} | ({} if given is None else {"id": given})]
    assert read(write(tmp_path, records))[1].id == expected


@pytest.mark.parametrize("text", ["<image>\nWhat?", "What?\n<image>", "What is <image> here?"])
def test_the_image_tag_may_stand_anywhere_in_the_question(tmp_path: Path, text: str) -> None:
    (one,) = read(write(tmp_path, [{"image": "a.png", "conversations": [{"from": "human", "value": text}, TELL]}]))
    assert one.turns[0].text == text
    assert one.images == (tmp_path / "a.png",)


def test_several_images_stand_in_the_order_of_their_tags(tmp_path: Path) -> None:
    first, second = {"from": "human", "value": "<image> this"}, {"from": "human", "value": "and <image>"}
    (one,) = read(write(tmp_path, [{"image": ["a.png", "b.png"], "conversations": [first, TELL, second, TELL]}]))
    assert one.images == (tmp_path / "a.png", tmp_path / "b.png")


def test_a_record_without_image_has_none(tmp_path: Path) -> None:
    assert read(write(tmp_path, [{"conversations": [ASK, TELL]}]))[0].images == ()


def test_json_lines_read_like_a_list(tmp_path: Path) -> None:
    records = [{"id": number, "conversations": [ASK, TELL]} for number in range(3)]
    lines = tmp_path / "instruct.jsonl"
    lines.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    assert [one.turns for one in read(lines)] == [one.turns for one in read(write(tmp_path, records))]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "a.png", "conversations": [{"from": "human", "value": "<image><image>"}]}, "2 <image> tags, 1 image;"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "1 <image> tag, 0 images"),
        ({"image": "a.png", "conversations": [ASK, TELL]}, "0 <image> tags, 1 image"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "turn 0: unknown speaker 'robot'"),
        ({"conversations": [ASK, {"from": "gpt", "value": 3}]}, "turn 1: 'value' is int"),
        ({"conversations": [ASK, {"text": "x"}]}, "turn 1: expected an object with 'from' and 'value'"),
        ({"conversation": []}, "expected a list in 'conversations', got nothing; its keys are conversation"),
        ({"conversations": []}, "'conversations' is empty"),
        ("text", "got str, expected an object"),
        ({"image": [3], "conversations": [ASK]}, "'image' holds int"),
    ],
)
def test_a_malformed_record_is_named_by_file_and_number(tmp_path: Path, record: object, message: str) -> None:
    path = write(tmp_path, [{"conversations": [ASK, TELL]}, record])
    with pytest.raises(ValueError, match=r"^instruct\.json record 1") as error:
        read(path)
    assert message in str(error.value)


def test_broken_json_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "instruct.jsonl"
    path.write_text('{"conversations": []\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"instruct\.jsonl line 1: not valid JSON"):
        read(path)


def test_an_unknown_format_lists_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown data format 'lava'; did you mean 'llava'"):
        read(write(tmp_path, []), "lava")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json does not exist"):
        read(tmp_path / "nothing.json")
