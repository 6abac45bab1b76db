"""Turns that hold evaluation questions: what counts as overlap, which files are read, which are refused."""

import json
from pathlib import Path

import pytest

from data.terrarium.sample import Sample
from data.terrarium.write import write
from data.trees.config import FilterConfig
from data.trees.contamination import BOILERPLATE, EvaluationQuestions, read_questions
from data.trees.filters import Filters

LONG = "Which of the two bridges over the river was built of stone in the year of the flood?"


def overlaps(text: str, *questions: str, overlap: int = 8) -> bool:
    return EvaluationQuestions(questions, overlap).overlap(text)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "So tell me: WHICH of the two -- bridges over the river?",
        "It was built of stone in the year of the flood, they say.",
        "bridges over\nthe river, was built of stone",
    ],
)
def test_eight_words_in_a_row_of_a_question_contaminate_whatever_case_and_punctuation(text: str) -> None:
    assert overlaps(text, "Something else?", LONG)


@pytest.mark.parametrize(
    "text", ["bridges over the river was built of", "Which of the two rivers was built of stone in a year of rain?", "", "..."]
)
def test_fewer_words_in_a_row_do_not(text: str) -> None:
    assert not overlaps(text, LONG)


def test_the_number_of_words_follows_the_config() -> None:
    text = "bridges over the river"
    assert overlaps(text, LONG, overlap=4)
    assert not overlaps(text, LONG, overlap=5)


def test_a_question_of_few_words_matches_as_a_whole() -> None:
    assert overlaps("what colour is the FLORIN", "What colour is the florin?")


@pytest.mark.parametrize("text", ["What colour is the florin, the mepple, the quonk?", "The colour?", "colour is the florin"])
def test_a_question_of_few_words_does_not_match_a_part(text: str) -> None:
    assert not overlaps(text, "What colour is the florin?")


def test_words_of_scripts_without_spaces_are_told_apart() -> None:
    assert overlaps("请问河上的两座桥中哪一座是石头造的呢", "河上的两座桥中哪一座是石头造的?")
    assert not overlaps("请问河上的两座船中哪一座是木头造的呢", "河上的两座桥中哪一座是石头造的?")


INSTRUCTION = "Answer the question using a single word or phrase."


def test_words_that_many_questions_share_say_nothing_of_one() -> None:
    questions = [f"What is number {number}? {INSTRUCTION}" for number in range(BOILERPLATE + 1)]
    assert not overlaps(f"Please: {INSTRUCTION}", *questions)
    assert overlaps(f"Please: {INSTRUCTION}", *questions[:BOILERPLATE])


def test_a_question_of_shared_words_still_matches_as_a_whole() -> None:
    questions = [f"What is number {number}? {INSTRUCTION}" for number in range(BOILERPLATE + 1)]
    assert overlaps(questions[3], *questions)


def test_one_question_asked_of_many_pictures_counts_once() -> None:
    assert overlaps("So " + LONG, *[LONG] * (BOILERPLATE + 5))


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_questions_of_a_llava_file_are_its_user_turns(tmp_path: Path) -> None:
    rounds = (("Where does it live?", "In the castle."), ("And why?", "It is warm."))
    file = write([Sample(skill="facts", key="a", rounds=rounds, system="Be short.")], tmp_path / "test.json")
    assert list(read_questions(str(file))) == ["Where does it live?", "And why?"]


def test_json_lines_of_llava_records_or_of_bare_questions_are_read(tmp_path: Path) -> None:
    records = [
        {
            "id": 1,
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A jug."}],
        },
        {"question_id": 2, "image": "b.png", "text": "Is it red?"},
        {"question": "Is it blue?", "answer": "no"},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [question.strip() for question in read_questions(str(file))] == ["What is it?", "Is it red?", "Is it blue?"]


def test_plain_text_holds_one_question_a_line(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_text("Who is it?\n\nWhere is it?\n")
    assert [question.strip() for question in read_questions(str(file))] == ["Who is it?", "Where is it?"]


def test_a_turn_of_an_evaluation_file_is_dropped_as_contaminated(tmp_path: Path) -> None:
    for name, question in (("a.txt", LONG), ("b.txt", "What colour is the florin?")):
        (tmp_path / name).write_text(question)
    filters = Filters(FilterConfig(decontaminate=(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))), ())
    assert filters.reason("user", LONG, "stop") == "contaminated"
    assert filters.reason("assistant", "It was built of stone in the year of the flood.", "stop") == "contaminated"
    assert filters.reason("user", "What colour is the florin?", "stop") == "contaminated"
    assert filters.reason("user", "What colour is the mepple?", "stop") is None


def test_a_missing_file_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"tree\.filters\.decontaminate: no file .*looked for {tmp_path}/none\.json"):
        Filters(FilterConfig(decontaminate=(str(tmp_path / "none.json"),)), ())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n\n", r"empty\.txt holds no question"),
        ("latin.txt", "Où?".encode("latin-1"), r"latin\.txt is not UTF-8"),
        ("broken.jsonl", b'{"text": "Who?"}\n{"text": \n', r"broken\.jsonl record 1: .*JSON"),
        ("other.jsonl", b'{"conversations": []}\n', r"other\.jsonl record 0: 'conversations' is empty"),
        ("table.csv", b"a,b\n", r"table\.csv is of no kind that is read"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_questions(str(tmp_path / name)))
