"""Dialogues of a tree on their way into files, and back."""

import json
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from data.readers import read
from data.trees.config import ExportConfig, ExportFormat
from data.trees.export import FILES, FORMATS, Kind, choose, paths, to_llava, to_messages, to_sharegpt, to_text, weights, write
from data.trees.nodes import Node

ROOTS = [f"{root}" for root in range(10)]
ANSWERS = [f"{root}.{answer}" for root in ROOTS for answer in range(2)]
FOLLOW_UPS = [f"{answer}.{number}" for answer in ANSWERS for number in range(3)]
BALANCE = [
    *ROOTS,
    *ANSWERS,
    *FOLLOW_UPS,
    *(f"{question}.0" for question in FOLLOW_UPS),
    "10",
    "11",
    "11.0",
]  # the last are unanswered, short
CHATS: list[ExportFormat] = ["llava", "sharegpt", "messages", "parquet"]
READ_AS = {"parquet": "messages"}


def node(path: str, text: str = "text") -> Node:
    layer = path.count(".")
    role: Any = "assistant" if layer % 2 else "user"
    parent = path.rpartition(".")[0] or None
    return Node(id=path, parent=parent, layer=layer, role=role, text=text, tokens=1, seed=0, logprob=0.0, finish_reason="stop")


def tree(*ids: str) -> list[Node]:
    """The nodes of these ids; what each says is its own."""
    return [node(path, f"say {path}:\n {'é' * path.count('0')}") for path in sorted(ids, key=lambda one: one.count("."))]


def told(system: str, nodes: Sequence[Node]) -> list[Node]:
    return [replace(one, system=system) if one.parent is None else one for one in nodes]


def ids(dialogues: Sequence[Sequence[Node]]) -> list[list[str]]:
    return [[one.id for one in path] for path in dialogues]


def back(folder: Path, format: ExportFormat) -> list[list[tuple[str, str, float]]]:
    """What the reader of a format finds in the file that was written: role, text, weight of each turn."""
    found = read(folder / FILES[format], READ_AS.get(format, format))
    return [[(turn.role, turn.text, turn.weight) for turn in one.turns] for one in found]


# --- dialogues -------------------------------------------------------------------------------------------------------


def test_each_leaf_answer_makes_one_dialogue() -> None:
    nodes = tree("0", "0.0", "0.0.0", "0.0.1", "0.0.0.0", "0.0.1.0")
    assert ids(list(paths(nodes))) == [["0", "0.0", "0.0.0", "0.0.0.0"], ["0", "0.0", "0.0.1", "0.0.1.0"]]


def test_unanswered_questions_end_no_dialogue_but_the_round_before_does() -> None:
    assert ids(list(paths(tree("0", "0.0", "0.0.0", "1")))) == [["0", "0.0"]]


def test_leaves_may_stand_at_different_depths() -> None:
    assert Counter(map(len, paths(tree(*BALANCE)))) == {4: 60, 2: 1}


def test_a_sample_is_drawn_by_its_seed_without_repeats() -> None:
    dialogues = list(paths(tree(*[str(n) for n in range(50)], *[f"{n}.0" for n in range(50)])))
    chosen = ids(choose(dialogues, 10, seed=3))
    assert len({path[-1] for path in chosen}) == 10
    assert chosen == ids(choose(dialogues, 10, seed=3)) == sorted(chosen, key=ids(dialogues).index)
    assert chosen != ids(choose(dialogues, 10, seed=4))


def test_all_dialogues_are_chosen_when_there_are_no_more_than_asked_for() -> None:
    dialogues = list(paths(tree(*BALANCE)))
    assert choose(dialogues, 99, seed=0) == choose(dialogues, None, seed=0) == dialogues


# --- weights ---------------------------------------------------------------------------------------------------------


def totals(dialogues: Sequence[Sequence[Node]], kind: Kind) -> dict[str, float]:
    """What each node weighs in all dialogues together."""
    found: dict[str, float] = defaultdict(float)
    for path, row in zip(dialogues, weights(dialogues, kind), strict=True):
        for one, weight in zip(path, row, strict=True):
            found[one.id] += weight
    return found


@pytest.mark.parametrize("kind", ["shared", "once"])
@pytest.mark.parametrize("size", [None, 7])
def test_each_exported_turn_weighs_one_in_all(kind: Kind, size: int | None) -> None:
    dialogues = choose(list(paths(tree(*BALANCE))), size, seed=1)
    found = totals(dialogues, kind)
    assert found.keys() == {one.id for path in dialogues for one in path}
    assert list(found.values()) == pytest.approx([1.0] * len(found))


def test_shared_turns_weigh_the_same_in_each_of_their_dialogues() -> None:
    assert [row for row in weights(list(paths(tree(*BALANCE)))) if len(row) == 4] == [[1 / 6, 1 / 3, 1, 1]] * 60


def test_a_turn_that_counts_once_does_so_in_its_first_dialogue() -> None:
    dialogues = list(paths(tree("0", "0.0", "0.0.0", "0.0.1", "0.0.0.0", "0.0.1.0")))
    assert weights(dialogues, "once") == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_raw_turns_weigh_one_in_each_dialogue() -> None:
    dialogues = list(paths(tree(*BALANCE)))
    assert {weight for row in weights(dialogues, "raw") for weight in row} == {1}


def test_dialogues_that_are_not_exported_take_no_weight_away() -> None:
    dialogues = list(paths(tree("0", "0.0", "0.0.0", "0.0.1", "0.0.0.0", "0.0.1.0")))
    assert weights(dialogues[:1]) == [[1, 1, 1, 1]]


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_dialogue_has_exactly_the_fields_of_llava() -> None:
    assert to_llava([node("0", "Who?"), node("0.0", "Me.")]) == {
        "id": "0.0",
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}],
    }


def test_a_weight_is_written_where_it_is_not_one() -> None:
    record = to_llava([node("0", "Who?"), node("0.0", "Me.")], [0.25, 1.0])
    assert [turn.get("weight") for turn in record["conversations"]] == [0.25, None]


def test_the_roots_system_prompt_leads_the_dialogue() -> None:
    path = told("Be kind.", [node("0", "Who?"), node("0.0", "Me.")])
    assert to_llava(path)["conversations"][0] == {"from": "system", "value": "Be kind."}
    assert to_sharegpt(path)["system"] == "Be kind."
    assert to_messages(path)["messages"][0] == {"role": "system", "content": "Be kind."}


def test_plain_text_holds_the_turns_with_blank_lines_between_them_alone() -> None:
    path = told("Be kind.", [node("0", "Who?"), node("0.0", "Me.")])
    assert to_text(path) == {"id": "0.0", "text": "Who?\n\nMe."}


def test_weights_of_plain_text_cover_it_with_the_blank_lines_behind_their_turns() -> None:
    record = to_text([node("0", "Who?"), node("0.0", "Me.")], [0.5, 1.0])
    assert record["weights"] == [[6, 0.5], [3, 1.0]]


# --- files -----------------------------------------------------------------------------------------------------------


def test_every_format_of_a_recipe_can_be_written() -> None:
    assert set(get_args(ExportFormat)) == set(FILES) == set(FORMATS)


def test_every_kind_of_weights_of_a_recipe_is_known() -> None:
    assert get_args(ExportConfig.model_fields["weights"].annotation) == get_args(Kind)


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("format", CHATS)
def test_a_dialogue_is_read_back_with_its_turns_and_weights(tmp_path: Path, format: ExportFormat, kind: Kind, system: str | None) -> None:
    dialogues = list(paths(told(system, tree(*BALANCE)) if system else tree(*BALANCE)))
    write([format], dialogues, tmp_path, kind)
    head = [("system", system, 1.0)] if system else []
    assert back(tmp_path, format) == [
        head + [(one.role, one.text, weight) for one, weight in zip(path, row, strict=True)]
        for path, row in zip(dialogues, weights(dialogues, kind), strict=True)
    ]


@pytest.mark.parametrize("kind", ["shared", "once"])
def test_plain_text_is_read_back_with_every_turns_weight(tmp_path: Path, kind: Kind) -> None:
    dialogues = list(paths(tree(*BALANCE)))
    write(["text"], dialogues, tmp_path, kind)
    for path, row, parts in zip(dialogues, weights(dialogues, kind), back(tmp_path, "text"), strict=True):
        expected = list(row) if any(weight != 1 for weight in row) else [1.0]
        assert [weight for _, _, weight in parts] == expected
        assert "".join(text for _, text, _ in parts) == "\n\n".join(one.text for one in path)


@pytest.mark.parametrize("format", FILES)
def test_ids_are_those_of_the_last_turns(tmp_path: Path, format: ExportFormat) -> None:
    dialogues = list(paths(tree(*BALANCE)))
    file = write([format], dialogues, tmp_path)[format]
    assert [one.id for one in read(file, READ_AS.get(format, format))] == [path[-1].id for path in dialogues]


def test_more_dialogues_than_one_table_holds_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.trees.export.ROWS", 7)
    dialogues = list(paths(tree(*BALANCE)))
    write(["parquet"], dialogues, tmp_path)
    assert [turns[-1][1] for turns in back(tmp_path, "parquet")] == [path[-1].text for path in dialogues]


def test_tables_are_written_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("data.trees.export.ROWS", 7)
    dialogues = list(paths(tree(*BALANCE)))
    with pq.ParquetFile(write(["parquet"], dialogues, tmp_path)["parquet"]) as file:
        assert [file.metadata.row_group(number).num_rows for number in range(8)] == [7] * 8


def test_no_dialogues_make_a_file_without_records(tmp_path: Path) -> None:
    for format, file in write(FILES, [], tmp_path).items():
        assert read(file, READ_AS.get(format, format)) == []


def test_only_the_formats_asked_for_are_written_and_others_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sharegpt.json").write_text("old")
    written = write(["llava", "text"], list(paths(tree(*BALANCE))), tmp_path)
    assert written == {"llava": tmp_path / "dialogues.json", "text": tmp_path / "text.jsonl"}
    assert {file.name for file in tmp_path.iterdir()} == {"dialogues.json", "text.jsonl", "sharegpt.json"}
    assert (tmp_path / "sharegpt.json").read_text() == "old"


@pytest.mark.parametrize("format", FILES)
def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, format: ExportFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues = list(paths(tree(*BALANCE)))
    file = write([format], dialogues[:1], tmp_path)[format]
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write([format], dialogues, tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("format", FILES)
def test_what_is_in_memory_at_once_does_not_grow_with_the_dialogues(
    tmp_path: Path, format: ExportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.trees.export.ROWS", 16)
    path = [node("0", "x" * 20_000), node("0.0", "y" * 20_000)]
    write([format], [path] * 20, tmp_path)  # imports what it needs
    tracemalloc.start()
    try:
        write([format], [path] * 500, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000  # the file holds 20 MB


def test_the_llava_file_is_one_json_list(tmp_path: Path) -> None:
    dialogues = list(paths(tree(*BALANCE)))
    file = write(["llava"], dialogues, tmp_path)["llava"]
    assert json.loads(file.read_text(encoding="utf-8")) == list(map(to_llava, dialogues, weights(dialogues)))
