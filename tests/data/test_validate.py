"""Every way of being broken, reported."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.config import DataConfig
from data.dataset import Samples, check_shares, load_sources
from data.pictures import Pictures, pictures_of
from data.problems import KINDS, REPAIRS
from data.validate import make_report, summary, write_report

ASK = {"from": "human", "value": "What is this?"}
SHOW = {"from": "human", "value": "<image>\nWhat is this?"}
TELL = {"from": "gpt", "value": "A square."}


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def with_image(name: Any) -> dict[str, Any]:
    return {"image": name, "conversations": [SHOW, TELL]}


def turns(*found: Any) -> dict[str, Any]:
    return {"conversations": list(found)}


# (kind, words of its message, record or the bytes of its line)
RECORDS: list[tuple[str, str, Any]] = [
    ("broken_json", "not valid JSON", b'{"conversations": ['),
    ("not_utf8", "UTF-8", b'{"conversations": [{"from": "human", "value": "caf\xe9"}, {"from": "gpt", "value": "x"}]}'),
    ("not_an_object", "got list", ["human", "gpt"]),
    ("missing_turns", "expected a list in 'conversations', got nothing", {"text": "A square."}),
    ("missing_turns", "got dict", {"conversations": ASK}),
    ("empty", "'conversations' is empty", turns()),
    ("broken_turn", "turn 1", turns(ASK, {"from": "gpt"})),
    ("broken_turn", "turn 0", turns("What is this?", TELL)),
    ("unknown_role", "'robot'", turns(ASK, {"from": "robot", "value": "A square."})),
    ("not_text", "turn 1: 'value' is int", turns(ASK, {"from": "gpt", "value": 4})),
    ("bad_weight", "-1", turns(ASK, TELL | {"weight": -1})),
    ("bad_id", "id", turns(ASK, TELL) | {"id": ["a"]}),
    ("duplicate_id", "'good' is that of record 0", turns(ASK, TELL) | {"id": "good"}),
    ("image_in_answer", "turn 1", {"image": "good.png", "conversations": [ASK, {"from": "gpt", "value": "<image>"}]}),
    ("placeholder_mismatch", "0 <image> tags, 1 image", {"image": "good.png", "conversations": [ASK, TELL]}),
    ("placeholder_mismatch", "2 <image> tags, 1 image", {"image": "good.png", "conversations": [SHOW, TELL, SHOW, TELL]}),
    ("bad_image_field", "int", with_image(3)),
    ("bad_data_uri", "base64", with_image("data:image/png;base64,!!!")),
    ("broken_image", "no kind", with_image("data:image/png;base64," + base64.b64encode(b"nothing").decode())),
    ("url_not_allowed", "http://example.invalid/a.png", with_image("http://example.invalid/a.png")),
    ("missing_image", "nowhere.png does not exist", with_image("nowhere.png")),
    ("empty_image", "empty.png is empty", with_image("empty.png")),
    ("broken_image", "text.png is of no kind", with_image("text.png")),
    ("broken_image", "checksum", with_image("flipped.png")),
    ("truncated_image", "half.jpg", with_image("half.jpg")),
    ("decompression_bomb", "bomb.png has more than", with_image("bomb.png")),
    ("reserved_token", "<|end|>", turns(ASK, {"from": "gpt", "value": "A<|end|>square"})),
    ("nothing_to_learn", "no turn of the assistant", turns(ASK)),
    ("nothing_to_learn", "no turn of the assistant", turns(ASK, {"from": "gpt", "value": ""})),
    ("over_long", "tokens, more than data.max_length 400", turns(ASK, {"from": "gpt", "value": "A square. " * 400})),
]


def write_broken(folder: Path) -> Path:
    """Writes one good record, then `RECORDS`, then two good ones, as JSON lines beside their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    good = picture()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    half = picture("JPEG", (200, 200))
    bomb = bytearray(picture("PNG", (8, 8)))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # only the header says so
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    files = {
        "good.png": good,
        "empty.png": b"",
        "text.png": b"not a picture",
        "flipped.png": bytes(flipped),
        "half.jpg": half[: len(half) // 2],
        "bomb.png": bytes(bomb),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    records = [
        with_image("good.png") | {"id": "good"},
        *[one for _, _, one in RECORDS],
        turns(ASK, TELL) | {"id": "fine"},
        with_image("good.png"),
    ]
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    path = folder / "broken.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def config(path: Path, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"sources": [{"path": str(path)}], "max_length": 400, "max_bad_share": 1.0} | settings)


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, processor: Any) -> Samples:
    path = write_broken(tmp_path_factory.mktemp("broken"))
    return load_sources(config(path), processor.tokenizer, pictures_of(processor))[0]


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_each_broken_record_is_told_by_kind_with_its_place(loaded: Samples, number: int) -> None:
    kind, words, _ = RECORDS[number]
    (problem,) = [one for one in loaded.problems if one.record == number + 1]
    assert problem.kind == kind
    assert problem.message.startswith(f"broken.jsonl record {number + 1}: ")
    assert words in problem.message


def test_messages_of_broken_records_all_differ(loaded: Samples) -> None:
    told = {problem.message.partition(": ")[2] for problem in loaded.problems}
    assert len(loaded.problems) == len(RECORDS)
    assert len(told) >= 25
    assert len({problem.kind for problem in loaded.problems}) >= 20


def test_what_is_left_is_what_is_good(loaded: Samples) -> None:
    assert loaded.index.column("record")[loaded.rows].tolist() == [0, len(RECORDS) + 1, len(RECORDS) + 2]


def test_the_report_counts_every_kind_and_says_that_training_would_start(loaded: Samples, processor: Any, tmp_path: Path) -> None:
    report = make_report([loaded], config(Path("x")), pictures_of(processor))
    assert report["starts"]
    assert report["bad_records"] == len(RECORDS)
    assert report["kinds"]["placeholder_mismatch"]["count"] == 2
    write_report(report, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert json.loads((tmp_path / "report.json").read_text())["problems"] == lines
    assert set(lines[0]) == {"source", "record", "kind", "message"}
    assert "training would start" in summary(report)


def test_more_bad_records_than_allowed_stop_training(loaded: Samples, processor: Any) -> None:
    strict = config(Path("x"), max_bad_share=0.5)
    with pytest.raises(ValueError, match=r"30 of 33 records are bad \(.*2 broken_turn.*more than data\.max_bad_share 0\.5 allows"):
        check_shares([loaded], strict.max_bad_share)
    report = make_report([loaded], strict, pictures_of(processor))
    assert not report["starts"]
    assert "training would not start" in summary(report)


def test_every_kind_of_the_vocabulary_says_what_it_means() -> None:
    assert all(KINDS.values())
    assert all(REPAIRS.values())


def test_a_picture_is_bad_for_a_model_without_a_tower(tmp_path: Path, processor: Any, tiny_data: Path) -> None:
    (one,) = load_sources(config(tiny_data), processor.tokenizer, Pictures())
    assert one.kinds == {"image_without_tower": 8}


def test_a_repaired_picture_is_seen_at_the_next_reading(tmp_path: Path, processor: Any, tiny_data: Path) -> None:
    missing = tiny_data.parent / "images" / "3.png"
    content = missing.read_bytes()
    missing.unlink()
    pictures = pictures_of(processor)
    assert load_sources(config(tiny_data), processor.tokenizer, pictures)[0].kinds == {"missing_image": 1}
    missing.write_bytes(content)
    assert load_sources(config(tiny_data), processor.tokenizer, pictures)[0].kinds == {}


def test_the_page_about_data_lists_every_kind_with_its_meaning() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [f"| `{kind}` | {meaning} |" in page for kind, meaning in KINDS.items()] == [True] * len(KINDS)
