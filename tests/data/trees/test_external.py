"""A corpus from elsewhere in the shape of a grown tree."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.config import SourceConfig
from data.problems import KINDS
from data.trees.export import paths
from data.trees.external import UNFIT, dialogues_of
from data.trees.nodes import Node

QA = ["Who?", "Me."]


def llava(*texts: str, **more: Any) -> dict[str, Any]:
    """A record in which human and model take turns, the human first."""
    return {"conversations": [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]} | more


def corpus(
    folder: Path, records: list[Any], tokenizer: Any = None, seed: int = 0, skipped: Counter[str] | None = None, **source: Any
) -> list[list[Node]]:
    """The dialogues of a file of these records."""
    path = folder / "corpus.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return list(dialogues_of(SourceConfig(path=str(path), **source), Counter() if skipped is None else skipped, tokenizer, seed))


def test_a_dialogue_becomes_a_chain_under_its_own_root(tmp_path: Path) -> None:
    first, second = corpus(tmp_path, [llava(*QA, "Where?", "Here."), llava(*QA)])
    assert [(one.id, one.parent, one.layer, one.role, one.text) for one in first] == [
        ("0", None, 0, "user", "Who?"),
        ("0.0", "0", 1, "assistant", "Me."),
        ("0.0.0", "0.0", 2, "user", "Where?"),
        ("0.0.0.0", "0.0.0", 3, "assistant", "Here."),
    ]
    assert [one.id for one in second] == ["1", "1.0"]


def test_the_dialogues_are_the_paths_of_their_tree(tmp_path: Path) -> None:
    dialogues = corpus(tmp_path, [llava(*QA, "Where?", "Here."), llava(*QA)])
    assert list(paths([one for dialogue in dialogues for one in dialogue])) == dialogues


def test_nothing_is_claimed_about_how_turns_were_written(tmp_path: Path) -> None:
    (dialogue,) = corpus(tmp_path, [llava(*QA)])
    assert {(one.seed, one.logprob, one.finish_reason) for one in dialogue} == {(0, None, "stop")}


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("llava", llava(*QA)),
        ("sharegpt", llava(*QA)),
        ("messages", {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}),
        ("qa", {"question": "Who?", "answer": "Me."}),
    ],
)
def test_corpora_of_every_format_are_read(tmp_path: Path, format: str, record: dict[str, Any]) -> None:
    (dialogue,) = corpus(tmp_path, [record], format=format)
    assert [(one.role, one.text) for one in dialogue] == [("user", "Who?"), ("assistant", "Me.")]


def test_a_system_turn_is_part_of_the_root(tmp_path: Path) -> None:
    (dialogue,) = corpus(tmp_path, [llava(*QA, system="Be brief.")], format="sharegpt")
    assert [(one.text, one.system) for one in dialogue] == [("Who?", "Be brief."), ("Me.", None)]


def test_tokens_are_counted_by_the_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    (dialogue,) = corpus(tmp_path, [llava(*QA)], tokenizer)
    assert [one.tokens for one in dialogue] == [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in QA]


def test_without_a_tokenizer_no_tokens_are_counted(tmp_path: Path) -> None:
    (dialogue,) = corpus(tmp_path, [llava(*QA)])
    assert {one.tokens for one in dialogue} == {0}


@pytest.mark.parametrize(
    ("format", "record", "reason"),
    [
        ("llava", llava("<image>\nWho?", "Me.", image="a.png"), "pictures"),
        ("llava", llava("Who?"), "no_answer"),
        ("llava", {"conversations": [{"from": "system", "value": "Be brief."}]}, "empty"),
        ("llava", {"conversations": [*llava(*QA)["conversations"], {"from": "system", "value": "Be brief."}]}, "turns_out_of_order"),
        ("llava", {}, "missing_turns"),
        ("text", {"text": "Once upon a time."}, "document"),
    ],
)
def test_what_is_no_dialogue_of_text_is_counted_by_its_reason(tmp_path: Path, format: str, record: Any, reason: str) -> None:
    skipped: Counter[str] = Counter()
    assert corpus(tmp_path, [record], skipped=skipped, format=format) == []
    assert skipped == {reason: 1}
    assert reason in UNFIT | KINDS


def test_roots_are_numbered_without_gaps(tmp_path: Path) -> None:
    assert [one[0].id for one in corpus(tmp_path, [llava(*QA), {}, llava("Who?"), llava(*QA)])] == ["0", "1"]


NUMBERED = [llava(f"{number}?", "Yes.") for number in range(40)]


def questions(dialogues: list[list[Node]]) -> list[str]:
    return [dialogue[0].text for dialogue in dialogues]


def test_so_many_dialogues_as_the_source_allows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = [questions(corpus(tmp_path, NUMBERED, None, seed, max_records=8)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 8


def test_drawn_dialogues_keep_their_order(tmp_path: Path) -> None:
    drawn = questions(corpus(tmp_path, NUMBERED, None, 0, max_records=8))
    assert drawn == sorted(drawn, key=lambda text: int(text[:-1]))


def test_each_dialogue_is_as_likely_to_be_drawn_as_any_other(tmp_path: Path) -> None:
    counts = Counter(text for seed in range(400) for text in questions(corpus(tmp_path, NUMBERED[:10], None, seed, max_records=3)))
    assert len(counts) == 10
    assert all(80 < count < 160 for count in counts.values())  # 120 on average, standard deviation 9
