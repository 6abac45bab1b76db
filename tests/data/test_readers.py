"""Records of every format as they are found in the wild."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from data.config import SourceConfig
from data.conversation import Conversation, Turn
from data.images import ImageSource
from data.problems import KINDS, REPAIRS, BadRecord, Problem
from data.readers import COLUMNS, READERS, read, read_record, stream

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
    assert one.images == (ImageSource(str(tmp_path / "a.png")),)


def test_several_images_stand_in_the_order_of_their_tags(tmp_path: Path) -> None:
    first, second = {"from": "human", "value": "<image> this"}, {"from": "human", "value": "and <image>"}
    (one,) = read(write(tmp_path, [{"image": ["a.png", "b.png"], "conversations": [first, TELL, second, TELL]}]))
    assert [image.path for image in one.images] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


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


# --- one record at a time --------------------------------------------------------------------------------------------


def llava(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A record of (speaker, text) pairs."""
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], **more}


def messages(*turns: Any, **more: Any) -> dict[str, Any]:
    """A record of (role, content) pairs, or of whole turns."""
    return {"messages": [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in turns], **more}


def one(record: Any, format: str = "llava", number: int = 0, **source: Any) -> Conversation:
    """The conversation that a record makes; its pictures lie in /pictures."""
    return read_record(record, SourceConfig(path="a.json", format=format, image_root="/pictures", **source), number)


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


def bad(record: Any, format: str = "llava", **source: Any) -> tuple[str, str]:
    """Kind and message of what is wrong with a record."""
    with pytest.raises(BadRecord) as error:
        one(record, format, **source)
    return error.value.kind, error.value.message


QA = (("human", "What?"), ("gpt", "That."))


@pytest.mark.parametrize(
    ("turns", "expected", "repairs"),
    [
        ((("gpt", "Hi."), *QA), ["What?", "That."], ("starts_with_answer",)),
        ((("system", "Be brief."), ("gpt", "Hi."), *QA), ["Be brief.", "What?", "That."], ("starts_with_answer",)),
        ((("human", "Well,"), *QA), ["Well,\nWhat?", "That."], ("same_speaker_twice",)),
        ((*QA, ("gpt", "Or this.")), ["What?", "That.\nOr this."], ("same_speaker_twice",)),
        ((("human", ""), ("gpt", "That.")), ["", "That."], ("empty_question",)),
        ((("human", "What?"), ("gpt", "")), ["What?", ""], ("empty_answer",)),
        ((*QA, ("human", "And?")), ["What?", "That.", "And?"], ("no_last_answer",)),
        (QA, ["What?", "That."], ()),
    ],
)
def test_an_odd_dialogue_is_put_right_and_its_repair_named(turns: Any, expected: list[str], repairs: tuple[str, ...]) -> None:
    found = one(llava(*turns))
    assert ([turn.text for turn in found.turns], found.repairs) == (expected, repairs)


def test_every_repair_is_one_that_reports_explain() -> None:
    odd = llava(("gpt", "Hi."), ("human", ""), ("human", ""), ("gpt", ""), ("tool", "x"), *QA, ("human", "And?"))
    repairs = one(odd, "sharegpt").repairs
    assert len(repairs) == 6
    assert set(repairs) <= REPAIRS.keys()


def test_an_empty_answer_carries_no_loss() -> None:
    assert [turn.weight for turn in one(llava(("human", "What?"), ("gpt", " "), *QA)).turns] == [1, 0, 1, 1]


@pytest.mark.parametrize("turns", [(("gpt", "Hi."),), (("system", "Be brief."),), (("human", ""), ("gpt", "\n"))])
def test_a_dialogue_of_which_nothing_is_left_is_refused(turns: Any) -> None:
    assert bad(llava(*turns))[0] == "empty"


@pytest.mark.parametrize("speaker", ["gpt", "assistant", "chatgpt", "bard", "bing", "model"])
def test_assistants_go_by_many_names(speaker: str) -> None:
    assert said(one(llava(("user", "What?"), (speaker, "That.")))) == [("user", "What?"), ("assistant", "That.")]


def test_names_of_speakers_are_taken_exactly() -> None:
    assert bad(llava(("Human", "What?")))[0] == "unknown_role"


@pytest.mark.parametrize("speaker", [None, 3, ["human"], {"a": 1}])
def test_a_speaker_that_is_no_text_is_refused(speaker: Any) -> None:
    assert bad(llava((speaker, "What?")))[0] == "unknown_role"


@pytest.mark.parametrize("identity", [True, ["a"], {"a": 1}])
def test_an_id_that_is_neither_text_nor_number_is_refused(identity: Any) -> None:
    assert bad(llava(*QA, id=identity))[0] == "bad_id"


@pytest.mark.parametrize("identity", [None, "", float("nan")])
def test_an_id_of_nothing_becomes_the_records_number(identity: Any) -> None:
    assert one(llava(*QA, id=identity), number=7).id == "7"


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_of_record_and_turn_multiply() -> None:
    record = llava(*QA, *QA, weight=0.5)
    record["conversations"][1] |= {"weight": 6, "loss_weight": 0.5}
    record["conversations"][3]["loss_weight"] = 0
    assert [turn.weight for turn in one(record).turns] == [0.5, 1.5, 0.5, 0]


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 10**400, "1", True, [1]])
@pytest.mark.parametrize("place", ["record", "turn"])
def test_a_weight_that_is_no_number_from_zero_up_is_refused(place: str, weight: Any) -> None:
    record = llava(*QA)
    (record if place == "record" else record["conversations"][1])["weight"] = weight
    assert bad(record)[0] == "bad_weight"


def test_joined_turns_learn_no_text_that_was_kept_out() -> None:
    record = llava(*QA, ("gpt", "Or this."))
    record["conversations"][2]["weight"] = 0
    assert one(record).turns[1].weight == 0


# --- pictures --------------------------------------------------------------------------------------------------------

SHOW = (("human", "<image>\nWhat?"), ("gpt", "That."))
PIXELS = b"\x89PNG pixels"
URI = "data:image/png;base64," + base64.b64encode(PIXELS).decode()


@pytest.mark.parametrize("key", ["image", "images"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/b.png", ImageSource("/pictures/a/b.png")),
        (["b.png"], ImageSource("/pictures/b.png")),
        ("/else/b.png", ImageSource("/else/b.png")),
        ("file:///else/b.png", ImageSource("/else/b.png")),
        ("https://pictures.org/b.png", ImageSource("https://pictures.org/b.png")),
        ({"bytes": None, "path": "b.png"}, ImageSource("/pictures/b.png")),
        ({"bytes": PIXELS, "path": "b.png"}, ImageSource("b.png", data=PIXELS)),
        ([{"bytes": PIXELS, "path": None}], ImageSource("bytes of record 0", data=PIXELS)),
        (PIXELS, ImageSource("bytes of record 0", data=PIXELS)),
        (URI, ImageSource("data URI of record 0", data=PIXELS)),
    ],
)
def test_a_picture_may_be_given_in_many_ways(key: str, value: Any, expected: ImageSource) -> None:
    assert one(llava(*SHOW, **{key: value})).images == (expected,)


@pytest.mark.parametrize("nothing", [None, "", [], [None], [""], {"bytes": None, "path": None}])
def test_a_picture_of_nothing_is_none(nothing: Any) -> None:
    assert one(llava(*QA, image=nothing)).images == ()


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        ("data:image/png;base64,???", "bad_data_uri", "write it again"),
        ("data:image/png,abc", "bad_data_uri", "not marked as ;base64"),
        (["a.png", None], "bad_image_field", "'image' holds NoneType"),
        ({"bytes": "abcd"}, "bad_image_field", "write them as a data URI"),
        (7, "bad_image_field", "'image' holds int"),
        (True, "bad_image_field", "'image' holds bool"),
        ("iVBORw0KGgo" * 1000, "bad_image_field", "11,000 characters that are no path"),
        ("iVBORw0KGgo" * 30, "bad_image_field", "330 characters that are no path"),
    ],
)
def test_a_picture_given_wrongly_is_refused_with_the_remedy(image: Any, kind: str, message: str) -> None:
    found = bad(llava(*SHOW, image=image))
    assert found[0] == kind
    assert message in found[1]


def test_different_pictures_under_both_keys_are_refused() -> None:
    assert bad(llava(*SHOW, image="a.png", images=["b.png"]))[0] == "bad_image_field"
    assert len(one(llava(*SHOW, image="a.png", images=["a.png"])).images) == 1


def test_a_placeholder_in_an_answer_is_refused() -> None:
    assert bad(llava(("human", "What?"), ("gpt", "<image>"), image="a.png"))[0] == "image_in_answer"


@pytest.mark.parametrize("key", ["video", "audios"])
def test_a_record_with_video_or_sound_is_refused_rather_than_read_without_it(key: str) -> None:
    assert bad(llava(("human", "<video>\nWhat?"), ("gpt", "That."), **{key: "a.mp4"}))[0] == "unsupported_part"


TAR = {"shard/7.jpg": ImageSource("s.tar", 512, 9), "shard/7.1.png": ImageSource("s.tar", 2048, 9)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, [512, 2048]),
        (["shard/7.1.png", "shard/7.jpg"], [2048, 512]),
        (["1.png", "jpg"], [2048, 512]),
        (["coco/7.1.png", "else/7.jpg"], [2048, 512]),
    ],
)
def test_pictures_of_a_sample_are_found_by_name_or_taken_in_order(names: Any, expected: list[int]) -> None:
    found = one(llava(("human", "<image><image>"), ("gpt", "That."), image=names, __pictures__=TAR))
    assert [image.offset for image in found.images] == expected


def test_a_picture_that_its_sample_does_not_hold_is_refused() -> None:
    kind, message = bad(llava(*SHOW, image="8.jpg", __pictures__=TAR))
    assert kind == "missing_image"
    assert "shard/7.jpg, shard/7.1.png" in message


# --- sharegpt --------------------------------------------------------------------------------------------------------


def test_sharegpt_takes_the_system_prompt_beside_the_turns() -> None:
    assert said(one(llava(*QA, system="Be brief."), "sharegpt"))[0] == ("system", "Be brief.")


@pytest.mark.parametrize("speaker", ["tool", "function", "observation", "function_call", "tool_call"])
def test_sharegpt_leaves_turns_of_tools_out(speaker: str) -> None:
    found = one(llava(("human", "What?"), (speaker, "{}"), ("gpt", "That.")), "sharegpt")
    assert (said(found), found.repairs) == ([("user", "What?"), ("assistant", "That.")], ("tool_turns",))


def test_llava_knows_no_tools() -> None:
    assert bad(llava(("human", "What?"), ("tool", "{}")))[0] == "unknown_role"


# --- messages --------------------------------------------------------------------------------------------------------


def shown(*parts: Any, **more: Any) -> Conversation:
    """A dialogue whose question has these parts."""
    return one(messages(("user", list(parts)), ("assistant", "That."), **more), "messages")


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": URI, "text": None},
        {"type": "image", "image": URI},
        {"type": "image", "url": URI},
        {"type": "image", "bytes": PIXELS},
        {"type": "image", "image": {"bytes": PIXELS, "path": None}},
    ],
)
def test_a_part_may_hold_its_picture_in_many_ways(part: dict[str, Any]) -> None:
    (image,) = shown(part, text("What?")).images
    assert image.data == PIXELS


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["i", "What?"], "<image>\nWhat?"),
        (["What?", "i"], "What?\n<image>"),
        (["i", "\nWhat?"], "<image>\nWhat?"),
        (["i", "i", "Which ", "one?"], "<image><image>\nWhich one?"),
        (["i", "", "What?"], "<image>\nWhat?"),
    ],
)
def test_parts_are_joined_as_llava_writes_them(parts: list[str], expected: str) -> None:
    found = shown(*[{"type": "image", "path": "a.png"} if one == "i" else text(one) for one in parts])
    assert found.turns[0].text == expected


def test_bare_parts_take_the_records_pictures_in_order_between_those_that_have_their_own() -> None:
    bare, own = {"type": "image", "text": None}, {"type": "image", "path": "own.png"}
    found = shown(bare, own, text("<image> or"), bare, images=["1.png", "2.png", "3.png"])
    assert [Path(image.path).name for image in found.images] == ["1.png", "own.png", "2.png", "3.png"]


def test_placeholders_in_plain_content_take_the_records_pictures() -> None:
    found = one(messages(("user", "<image>What?"), ("assistant", "That."), images=["1.png"]), "messages")
    assert found.images == (ImageSource("/pictures/1.png"),)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {}}, "unsupported_part"),
        ({"type": "video", "video": "a.mp4"}, "unsupported_part"),
        ({"text": "What?"}, "unsupported_part"),
        (3, "unsupported_part"),
        ({"type": "text", "text": None}, "not_text"),
        ({"type": "image_url", "image_url": {}}, "bad_image_field"),
        ({"type": "image", "image": 3}, "bad_image_field"),
        ({"type": "image"}, "placeholder_mismatch"),
    ],
)
def test_a_part_that_is_neither_text_nor_picture_is_refused(part: Any, kind: str) -> None:
    assert bad(messages(("user", [part]), ("assistant", "That.")), "messages")[0] == kind


@pytest.mark.parametrize("content", [None, "", []])
def test_calls_and_results_of_tools_are_left_out(content: Any) -> None:
    call = {"role": "assistant", "content": content, "tool_calls": [{"id": "1"}]}
    found = one(messages(("user", "What?"), call, ("tool", "{}"), ("assistant", "That.")), "messages")
    assert (said(found), found.repairs) == ([("user", "What?"), ("assistant", "That.")], ("tool_turns",))


def test_text_beside_a_call_stays() -> None:
    call = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "1"}]}
    found = one(messages(("user", "What?"), call), "messages")
    assert (said(found)[1], found.repairs) == (("assistant", "Let me see."), ("tool_turns",))


def test_a_developer_speaks_as_the_system() -> None:
    assert said(one(messages(("developer", "Be brief."), ("user", "What?"), ("assistant", "That.")), "messages"))[0][0] == "system"


@pytest.mark.parametrize("turn", [{"role": "user"}, {"role": "user", "content": None}, {"content": "x"}, "x", None])
def test_a_message_without_role_or_content_is_refused(turn: Any) -> None:
    assert bad({"messages": [turn]}, "messages")[0] == "broken_turn"


# --- questions with answers ------------------------------------------------------------------------------------------


def test_a_question_with_its_answer_is_one_round() -> None:
    assert said(one({"question": "What?", "answer": "That."}, "qa")) == [("user", "What?"), ("assistant", "That.")]


def test_the_first_answer_that_is_not_empty_counts() -> None:
    assert one({"question": "What?", "answer": ["", "That.", "This."]}, "qa").turns[1].text == "That."


@pytest.mark.parametrize(("question", "expected"), [("What?", "<image>\nWhat?"), ("What is <image>?", "What is <image>?")])
def test_a_picture_stands_before_a_question_that_does_not_place_it(question: str, expected: str) -> None:
    found = one({"question": question, "answer": "That.", "image": "a.png"}, "qa")
    assert found.turns[0].text == expected


@pytest.mark.parametrize(
    ("record", "kind"),
    [({"question": "What?"}, "missing_turns"), ({"answer": "x"}, "missing_turns"), ({"question": 3, "answer": "x"}, "not_text")],
)
def test_a_question_that_lacks_something_is_refused(record: dict[str, Any], kind: str) -> None:
    assert bad(record, "qa")[0] == kind


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_read_under_the_records_own_names() -> None:
    record = {"dialog": llava(*SHOW)["conversations"], "img": "a.png", "key": "k", "conversations": None}
    found = one(record, columns={"conversations": "dialog", "image": "img", "id": "key"})
    assert (found.id, found.images) == ("k", (ImageSource("/pictures/a.png"),))


def test_a_mapped_column_that_is_missing_is_named() -> None:
    kind, message = bad(llava(*QA), columns={"conversations": "dialog"})
    assert kind == "missing_turns"
    assert "'dialog', got nothing; its keys are conversations" in message


def test_a_picture_column_that_is_missing_is_no_picture() -> None:
    assert one(llava(*QA), columns={"image": "img"}).images == ()


@pytest.mark.parametrize("format", READERS)
def test_a_column_that_a_format_does_not_have_is_refused_with_those_it_has(format: str) -> None:
    with pytest.raises(ValueError, match=f"no column turns; columns may map: {', '.join(COLUMNS[format]) or 'none'}"):
        list(stream(SourceConfig(path="a.json", format=format, columns={"turns": "x"})))


def test_turns_written_as_text_of_json_are_read() -> None:
    assert said(one({"conversations": json.dumps(llava(*QA)["conversations"])})) == said(one(llava(*QA)))


def test_turns_written_as_text_that_is_no_json_are_refused() -> None:
    assert bad({"conversations": "['a']"})[0] == "broken_json"


# --- whole sources ---------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_behind_a_bad_record(tmp_path: Path) -> None:
    path = write(tmp_path, [llava(*QA), {}, llava(*QA)])
    good, problem, last = stream(SourceConfig(path=str(path)))
    assert isinstance(problem, Problem)
    assert (problem.record, problem.kind, problem.source) == (1, "missing_turns", str(path))
    assert problem.message.startswith("instruct.json record 1: expected a list in 'conversations'")
    assert [getattr(one, "record", None) for one in (good, last)] == [0, 2]


def test_a_message_of_one_record_does_not_name_its_place() -> None:
    assert "a.json" not in bad({})[1]


def test_records_without_an_image_folder_look_beside_their_file(tmp_path: Path) -> None:
    (found,) = stream(SourceConfig(path=str(write(tmp_path, [llava(*SHOW, image="a.png")]))))
    assert isinstance(found, Conversation)
    assert found.images == (ImageSource(str(tmp_path / "a.png")),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_record_keeps_its_kind_on_the_way_to_another_process(kind: str) -> None:
    copy = pickle.loads(pickle.dumps(BadRecord(kind, "what is wrong")))
    assert (copy.kind, copy.message, str(copy)) == (kind, "what is wrong", "what is wrong")
