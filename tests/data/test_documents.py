"""Plain documents from their records to the rows of a batch."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.chat import ChatFormat, Encoded, Formatter, encode
from data.config import DataConfig, SourceConfig
from data.conversation import Conversation, Turn
from data.dataset import IGNORED, MixedDataset, Samples, load_sources
from data.encode import cut
from data.pictures import pictures_of
from data.plan import Amount, make_plan
from data.preview import Showing, describe
from data.problems import BadRecord
from data.readers import read_record
from data.terrarium.tokenizer import train_tokenizer
from data.validate import make_report

STORY = "Where does the Murlo live?\n\nThe Murlo lives in a warm cave. Grüße, 你好!"
LONG = " ".join(f"The Murlo number {number} lives in a warm cave." for number in range(40))


def document(record: Any, **source: Any) -> Conversation:
    return read_record(record, SourceConfig(path="text.jsonl", format="text", **source), 7)


def parts(*texts: str | tuple[str, float]) -> Conversation:
    found = [one if isinstance(one, tuple) else (one, 1.0) for one in texts]
    return Conversation(id="0", turns=tuple(Turn(role="text", text=text, weight=weight) for text, weight in found), source="a", record=0)


def write(folder: Path, *records: Any) -> Path:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_text_is_one_part_of_weight_one() -> None:
    found = document({"id": "a", "text": STORY})
    assert (found.id, found.turns) == ("a", (Turn(role="text", text=STORY),))
    assert found.is_document


def test_a_dialogue_is_no_document() -> None:
    assert not Conversation(id="0", turns=(Turn(role="user", text="Who?"),)).is_document


def test_weights_part_the_text_at_their_characters() -> None:
    found = document({"text": "Who?\n\nMé.", "weights": [[6, 0.5], [3, 0]]})
    assert [(turn.text, turn.weight) for turn in found.turns] == [("Who?\n\n", 0.5), ("Mé.", 0)]


def test_weights_of_record_and_part_multiply() -> None:
    found = document({"text": "Who? Me.", "weights": [[5, 0.5], [3, 1]], "weight": 4})
    assert [turn.weight for turn in found.turns] == [2, 4]


def test_counts_of_characters_may_be_whole_floats_as_tables_write_them() -> None:
    assert [turn.text for turn in document({"text": "Who? Me.", "weights": [[5.0, 0.5], [3.0, 1.0]]}).turns] == ["Who? ", "Me."]


def test_a_documents_columns_may_have_other_names() -> None:
    found = document({"body": "Who?", "importance": [[4, 0.5]]}, columns={"text": "body", "weights": "importance"})
    assert [(turn.text, turn.weight) for turn in found.turns] == [("Who?", 0.5)]


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ("Who?", "not_an_object", "got str, expected an object with 'text'"),
        ({"content": "Who?"}, "missing_turns", "expected text in 'text', got nothing; its keys are content"),
        ({"text": 3}, "not_text", "'text' is int"),
        ({"text": ""}, "empty", "'text' is empty"),
        ({"text": " \n"}, "empty", "'text' is empty"),
        ({"text": "Who?", "image": "a.png"}, "placeholder_mismatch", "pictures beside a plain text"),
        ({"text": "Who?", "audio": "a.wav"}, "unsupported_part", "'audio'"),
        ({"text": "Who?", "weights": 0.5}, "bad_weight", "expected a list of [number of characters, weight]"),
        ({"text": "Who?", "weights": [4]}, "bad_weight", "expected a list of [number of characters, weight]"),
        ({"text": "Who?", "weights": [[1.5, 1], [2.5, 1]]}, "bad_weight", "expected a list of [number of characters, weight]"),
        ({"text": "Who?", "weights": [[5, 1], [-1, 1]]}, "bad_weight", "expected a list of [number of characters, weight]"),
        ({"text": "Who?", "weights": [[3, 1]]}, "bad_weight", "'weights' covers 3 characters, 'text' has 4"),
        ({"text": "Who?", "weights": [[4, -1]]}, "bad_weight", "a weight in 'weights' is -1"),
        ({"text": "Who?", "weight": "much"}, "bad_weight", "'weight' is 'much'"),
    ],
)
def test_a_record_that_is_no_document_is_refused(record: Any, kind: str, words: str) -> None:
    with pytest.raises(BadRecord) as error:
        document(record)
    assert error.value.kind == kind
    assert words in error.value.message


@pytest.mark.parametrize("choice", [{"turns": "last"}, {"loss_on": "all"}])
def test_choosing_among_turns_of_plain_text_is_refused(choice: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="all of a plain text carries loss"):
        SourceConfig.model_validate({"path": "a", "format": "text"} | choice)


# --- tokens ----------------------------------------------------------------------------------------------------------


def with_ends(tokenizer: Any, template: str) -> Any:
    """The tokenizer with a post-processor such as Llama's, which writes `template` around plain text."""
    from tokenizers.processors import TemplateProcessing

    tokens = [(one, tokenizer.convert_tokens_to_ids(one)) for one in ("<s>", "<|end|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, pair=None, special_tokens=tokens)
    return tokenizer


def pieced(tokenizer: Any) -> Any:
    """A tokenizer that marks the beginning of a text, as SentencePiece does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.train_from_iterator([STORY], trainers.BpeTrainer(vocab_size=120, special_tokens=["<pad>", "<s>", "<|end|>"], show_progress=False))
    return with_ends(PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>"), "<s> $A")


KINDS: dict[str, Callable[[Any], Any]] = {
    "bare": lambda tokenizer: tokenizer,
    "begins": lambda tokenizer: with_ends(tokenizer, "<s> $A"),
    "ends": lambda tokenizer: with_ends(tokenizer, "<s> $A <|end|>"),
    "pieces": pieced,
}


@pytest.fixture
def tokenizer() -> Any:
    return train_tokenizer(["The Murlo lives in a warm cave."], vocabulary_size=300)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    """A tokenizer of each kind: what stands around plain text differs."""
    return KINDS[request.param](tokenizer)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer(text)["input_ids"])
    return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def per_token(encoded: Encoded) -> list[float]:
    found = np.zeros(len(encoded.input_ids))
    for (first, last), weight in zip(encoded.spans, encoded.weights, strict=True):
        found[first:last] = weight
    return list(found)


def test_ids_are_those_of_the_tokenizer_with_the_end_behind_them(kind: Any) -> None:
    assert encode(parts(STORY), kind).input_ids.tolist() == plain_ids(kind, STORY)


def test_parts_change_no_id(kind: Any) -> None:
    found = encode(parts(STORY[:9], (STORY[9:30], 0.5), STORY[30:]), kind)
    assert found.input_ids.tolist() == plain_ids(kind, STORY)


def test_every_token_but_the_first_carries_loss(kind: Any) -> None:
    assert encode(parts(STORY), kind).labels_mask.tolist() == [False] + [True] * (len(plain_ids(kind, STORY)) - 1)


def test_a_part_weighs_on_its_own_tokens(kind: Any) -> None:
    first, second = "The Murlo lives.", " A warm cave."
    found = encode(parts((first, 0.25), (second, 2.0)), kind)
    head = len(plain_ids(kind, first)) - 1
    assert per_token(found) == [0, *[0.25] * (head - 1), *[2.0] * (len(found.input_ids) - head)]


def test_a_part_of_weight_zero_carries_no_loss(tokenizer: Any) -> None:
    found = encode(parts(("The Murlo lives.", 0.0), " A warm cave."), tokenizer)
    assert tokenizer.decode(found.input_ids[found.labels_mask]) == " A warm cave.<|end|>"


def test_the_end_is_not_learned_where_the_last_part_is_not(tokenizer: Any) -> None:
    found = encode(parts("The Murlo lives.", (" A warm cave.", 0.0)), tokenizer)
    assert tokenizer.decode(found.input_ids[found.labels_mask]) == tokenizer.decode(plain_ids(tokenizer, "The Murlo lives.")[1:-1])


def test_documents_need_no_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    assert encode(parts(STORY), tokenizer).input_ids.tolist() == plain_ids(tokenizer, STORY)


def test_a_tokenizer_without_an_end_adds_none(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    assert encode(parts(STORY), tokenizer).input_ids.tolist() == tokenizer(STORY)["input_ids"]


@pytest.mark.parametrize("texts", [("The <|end|> of it.",), ("The <|e", "nd|> of it.")])
def test_a_control_token_in_a_document_is_refused(tokenizer: Any, texts: tuple[str, ...]) -> None:
    with pytest.raises(BadRecord, match=r"the text holds '<\|end\|>', which the tokenizer reads as a control token") as error:
        encode(parts(*texts), tokenizer)
    assert error.value.kind == "reserved_token"


def test_documents_stand_beside_dialogues_in_one_call(tokenizer: Any) -> None:
    talk = Conversation(id="1", turns=(Turn(role="user", text="Who?"), Turn(role="assistant", text="Me.")))
    formatter = Formatter(ChatFormat(tokenizer=tokenizer))
    together = formatter.tokenise([formatter.render(one) for one in (parts(STORY), talk)], [[], []])
    assert [one.input_ids.tolist() for one in together] == [encode(one, tokenizer).input_ids.tolist() for one in (parts(STORY), talk)]


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def processor(tiny: tuple[Any, Any]) -> Any:
    return tiny[1]


def load(processor: Any, *sources: dict[str, Any], **settings: Any) -> list[Samples]:
    values = {"sources": list(sources), "max_length": 512, "max_bad_share": 1.0} | settings
    return load_sources(DataConfig.model_validate(values), processor.tokenizer, pictures_of(processor))


def planned(samples: list[Samples], steps: int, **settings: Any) -> MixedDataset:
    config = DataConfig.model_validate({"sources": [{"path": "x"}], **settings})
    amount = Amount(batch_size=1, steps=steps)
    return MixedDataset(samples, make_plan([one.source for one in samples], [one.tokens for one in samples], config, amount, 0))


def samples_of(samples: Samples) -> list[dict[str, Any]]:
    """Every sample in the index's order."""
    dataset = planned([samples], len(samples))
    return [dataset.sample(0, number) for number in range(len(samples))]


def text(path: Path) -> dict[str, Any]:
    return {"path": str(path), "format": "text"}


def test_labels_of_a_document_are_its_ids_but_for_the_first(tmp_path: Path, processor: Any) -> None:
    (sample,) = samples_of(load(processor, text(write(tmp_path, {"text": STORY})))[0])
    ids = plain_ids(processor.tokenizer, STORY)
    assert sample["input_ids"].tolist() == ids
    assert sample["labels"].tolist() == [IGNORED, *ids[1:]]


@pytest.mark.parametrize("limit", [16, 64, 301])
def test_a_document_that_is_too_long_is_split_so_that_every_token_is_learned_once(tmp_path: Path, processor: Any, limit: int) -> None:
    (samples,) = load(processor, text(write(tmp_path, {"id": "a", "text": LONG})), max_length=limit, over_long="split")
    found, ids = samples_of(samples), plain_ids(processor.tokenizer, LONG)
    assert len(ids) > 301
    assert [label for one in found for label in one["labels"].tolist() if label != IGNORED] == ids[1:]
    assert all(2 <= len(one["input_ids"]) <= limit for one in found)
    assert samples.repairs == {"split": 1}
    assert samples.problems == ()


def test_a_document_that_just_fits_its_pieces_leaves_no_piece_of_one_token() -> None:
    ids = np.arange(9, dtype=np.int32)
    whole = Encoded(input_ids=ids, spans=np.array([[1, 9]], np.int32), weights=np.ones(1, np.float32))
    assert [piece.input_ids.tolist() for piece in cut(whole, 5)] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_pieces_of_a_document_keep_the_weights_of_its_parts(tmp_path: Path, processor: Any) -> None:
    record = {"text": LONG, "weights": [[100, 0.5], [100, 0], [len(LONG) - 200, 2.0]]}
    path = write(tmp_path, record)
    whole, pieces = (samples_of(load(processor, text(path), max_length=limit, over_long="split")[0]) for limit in (2000, 50))
    learned = [
        [(int(label), weight) for label, weight in zip(one["labels"], one["weights"].tolist(), strict=True) if weight]
        for one in whole + pieces
    ]
    assert len(pieces) > 5
    assert list(chain.from_iterable(learned[1:])) == learned[0]


def test_a_document_that_is_too_long_is_quarantined_where_nothing_is_split(tmp_path: Path, processor: Any) -> None:
    (samples,) = load(processor, text(write(tmp_path, {"text": LONG})), max_length=64)
    assert (len(samples), samples.kinds) == (0, {"over_long": 1})


def test_bad_documents_are_reported_by_kind_with_their_place(tmp_path: Path, processor: Any) -> None:
    path = write(tmp_path, {"text": STORY}, {"body": "x"}, {"text": " "}, {"text": "x", "weight": 0}, {"text": "a <|end|>"})
    config = DataConfig.model_validate({"sources": [text(path)], "max_bad_share": 0.5})
    report = make_report(load(processor, text(path)), config, pictures_of(processor))
    assert {one["kind"]: one["record"] for one in report["problems"]} == {
        "missing_turns": 1,
        "empty": 2,
        "nothing_to_learn": 3,
        "reserved_token": 4,
    }
    assert not report["starts"]


def test_a_document_that_weighs_nothing_is_told_as_such(tmp_path: Path, processor: Any) -> None:
    (samples,) = load(processor, text(write(tmp_path, {"text": "x", "weight": 0})))
    assert "every part of the text weighs 0" in samples.problems[0].message


def test_documents_mix_with_dialogues_about_pictures(tmp_path: Path, processor: Any, tiny_data: Path) -> None:
    path = write(tmp_path, *({"text": f"{number}. {STORY}"} for number in range(16)))
    sources = load(processor, text(path), {"path": str(tiny_data)})
    dataset = planned(sources, 32)
    kinds = [one["labels"][1].item() == one["input_ids"][1].item() for (one,) in (dataset[row] for row in range(32))]
    assert sources[0].source.text_only
    assert sum(kinds) == 16


def test_documents_are_packed_whole(tmp_path: Path, processor: Any) -> None:
    path = write(tmp_path, *({"text": f"{number}. {STORY}"} for number in range(12)))
    (samples,) = load(processor, text(path), max_length=None, packing={"length": 256})
    row = planned([samples], 2, packing={"length": 256})[0]
    assert len(row) > 1
    assert all(one["input_ids"][-1] == processor.tokenizer.eos_token_id for one in row)


def test_a_preview_shows_all_but_the_first_token_as_carrying_loss(tmp_path: Path, processor: Any) -> None:
    path = write(tmp_path, {"text": STORY})
    config = DataConfig.model_validate({"sources": [text(path)]})
    samples = load(processor, text(path))
    shown = describe(planned(samples, 1), samples, config, processor.tokenizer, pictures_of(processor), Showing())["shown"][0]["samples"][0]
    assert "".join(run["text"] for run in shown["runs"]) == STORY + "<|end|>"
    assert [run["weight"] for run in shown["runs"]] == [0, 1]
    assert shown["runs"][0]["tokens"] == 1


def test_documents_in_every_container_give_the_same_samples(tmp_path: Path, processor: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"text": STORY, "weights": [[10, 0.5], [len(STORY) - 10, 1.0]]}, {"text": "Who?", "weights": None}]
    lines = write(tmp_path, *records)
    (tmp_path / "text.json").write_text(json.dumps(records), encoding="utf-8")
    pq.write_table(pa.table({name: [one[name] for one in records] for name in ("text", "weights")}), tmp_path / "text.parquet")
    expected = [one["weights"].tolist() for one in samples_of(load(processor, text(lines))[0])]
    for name in ("text.json", "text.parquet"):
        assert [one["weights"].tolist() for one in samples_of(load(processor, text(tmp_path / name))[0])] == expected
