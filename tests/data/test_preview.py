"""What is shown is what training sees: no token more, none less."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.config import DataConfig
from data.dataset import IGNORED, MixedDataset, load_sources
from data.pictures import pictures_of
from data.plan import Amount, make_plan
from data.preview import Showing, describe, numbers, pieces
from data.preview_page import LONGEST_TEXT, render_html, render_text, thumbnail, write_preview

UNUSUAL = "Grüße 你好 👩‍👩‍👧 ∑ <b>&amp; two  blanks\n- a list"


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_data: Any) -> Path:
    """Records about pictures in one file; unusual ones in another, the last three of them bad."""
    found = tmp_path_factory.mktemp("preview")
    make_data(found, text_only=0)
    ask = {"from": "human", "value": UNUSUAL}
    records = [
        {"id": "unusual", "conversations": [ask, {"from": "gpt", "value": UNUSUAL}]},
        {"id": "weighted", "conversations": [ask, {"from": "gpt", "value": "half", "weight": 0.5}, ask, {"from": "gpt", "value": "whole"}]},
        {"id": "long", "conversations": [ask, {"from": "gpt", "value": "The square is blue. " * 200}]},
        {"id": "huge", "conversations": [ask, {"from": "gpt", "value": "The square is blue. " * 2000}]},
        {"id": "weighted", "conversations": [ask, {"from": "gpt", "value": "again"}]},
        {"id": "control", "conversations": [{"from": "human", "value": "a\x1b[31mb"}, {"from": "gpt", "value": "\x1b[2J"}]},
        {"id": "missing", "image": "nowhere.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]},
    ]
    (found / "unusual.json").write_text(json.dumps(records), encoding="utf-8")
    (found / "nothing.json").write_text(json.dumps(records[-1:]), encoding="utf-8")
    return found


def setting(folder: Path, *names: str, **settings: Any) -> DataConfig:
    values = {"sources": [{"path": str(folder / name)} for name in names], "max_length": 4000, "max_bad_share": 1.0}
    return DataConfig.model_validate(values | settings)


def planned(config: DataConfig, processor: Any, batch_size: int = 4) -> tuple[MixedDataset, list[Any]]:
    sources = load_sources(config, processor.tokenizer, pictures_of(processor))
    usable = [one for one in sources if len(one)]
    plan = make_plan([one.source for one in usable], [one.tokens for one in usable], config, Amount(batch_size=batch_size), 0)
    return MixedDataset(usable, plan), sources


def described(config: DataConfig, processor: Any, **showing: Any) -> dict[str, Any]:
    dataset, sources = planned(config, processor)
    wanted = Showing(**{"rows": 100, "micro_batch": 2} | showing)
    return describe(dataset, sources, config, processor.tokenizer, pictures_of(processor), wanted)


@pytest.fixture(scope="module")
def padded(folder: Path, processor: Any) -> dict[str, Any]:
    return described(setting(folder, "records.json", "unusual.json"), processor)


@pytest.fixture(scope="module")
def packed(folder: Path, processor: Any) -> dict[str, Any]:
    config = setting(folder, "records.json", "unusual.json", packing={"length": 512}, max_length=None)
    return described(config, processor, layout="packed")


def samples(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [sample for row in description["shown"] for sample in row["samples"]]


def sample(description: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in samples(description) if one["id"] == name)


def text(found: dict[str, Any]) -> str:
    return "".join(run["text"] for run in found["runs"])


def carrying(found: dict[str, Any]) -> list[str]:
    return [run["text"] for run in found["runs"] if run["weight"]]


def on_page(page: str, kind: str) -> list[str]:
    """Texts of the page's runs of one class."""
    runs = re.findall(rf'<span class="{kind}" title="[^"]*">(.*?)</span>', page, re.DOTALL)
    return [unescape(re.sub("</?i>", "", run)) for run in runs]


def test_exactly_the_tokens_with_a_label_are_shown_as_carrying_loss(folder: Path, processor: Any) -> None:
    config = setting(folder, "records.json", "unusual.json")
    dataset, _ = planned(config, processor)
    for row, shown in enumerate(described(config, processor)["shown"]):
        (read,), (found,) = dataset[row], shown["samples"]
        mask = np.concatenate([np.full(run["tokens"], run["weight"] > 0) for run in found["runs"]])
        assert mask.tolist() == (read["labels"] != IGNORED).tolist()


def test_tokens_are_counted_as_they_are_shown(padded: dict[str, Any]) -> None:
    for found in samples(padded):
        assert found["tokens"] == sum(run["tokens"] for run in found["runs"])
        assert found["loss_tokens"] == sum(run["tokens"] for run in found["runs"] if run["weight"])
        assert found["image_tokens"] == sum(run["tokens"] for run in found["runs"] if run["image"])


def test_an_answer_with_its_end_carries_loss_and_a_question_does_not(padded: dict[str, Any]) -> None:
    assert carrying(sample(padded, "image-0")) == ["The square is red.<|end|>"]


def test_text_of_many_scripts_is_shown_as_it_was_written(padded: dict[str, Any]) -> None:
    assert text(sample(padded, "unusual")) == f"<s><|user|>{UNUSUAL}<|end|><|assistant|>{UNUSUAL}<|end|>"


def test_no_character_is_shown_broken(padded: dict[str, Any]) -> None:
    assert "\ufffd" not in render_text(padded) + render_html(padded)


def test_pieces_say_together_what_their_run_says(padded: dict[str, Any]) -> None:
    for found in samples(padded):
        assert all("".join(run["pieces"]) == run["text"] for run in found["runs"])


def test_a_pieces_boundary_is_a_tokens_boundary(processor: Any) -> None:
    ids = processor.tokenizer("The square 你", add_special_tokens=False)["input_ids"]
    found = list(pieces(ids, [0.0] * len(ids), processor.tokenizer, None, []))
    assert sum(piece.tokens for piece in found) == len(ids)
    assert [piece.tokens for piece in found if piece.text == "你"] == [3]


def test_a_real_replacement_character_in_front_of_the_loss_stays_outside(processor: Any) -> None:
    parts = [processor.tokenizer(one, add_special_tokens=False)["input_ids"] for one in ("a\ufffd", "\ufffd", "b")]
    weights = [weight for part, weight in zip(parts, (0.0, 1.0, 0.5), strict=True) for _ in part]
    found = list(pieces([one for part in parts for one in part], weights, processor.tokenizer, None, []))
    assert ["".join(piece.text for piece in found if piece.weight == weight) for weight in (0, 1, 0.5)] == ["a\ufffd", "\ufffd", "b"]


def test_a_character_that_ends_a_sample_is_whole(processor: Any) -> None:
    ids = processor.tokenizer("a\ufffd", add_special_tokens=False)["input_ids"]
    assert "".join(piece.text for piece in pieces(ids, [1.0] * len(ids), processor.tokenizer, None, [])) == "a\ufffd"


def test_blanks_survive_a_tokenizer_that_writes_them_as_marks() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    marked = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    marked.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    marked.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    special = ["<unk>", "<s>", "</s>", "<image>", *(f"<0x{byte:02X}>" for byte in range(256))]
    marked.train_from_iterator(["The square is blue"] * 2, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=marked)
    before, after = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in ("The square", "is 你好 blue"))
    image = tokenizer.convert_tokens_to_ids("<image>")
    ids = [*before, image, image, image, *after]
    found = list(pieces(ids, [0.0] * (len(before) + 3) + [1.0] * len(after), tokenizer, image, [1, 2]))
    assert "".join(piece.text for piece in found) == "The square<image x1><image x2> is 你好 blue"


def test_weights_other_than_one_are_shown_in_the_terminal(padded: dict[str, Any]) -> None:
    shown = render_text(padded)
    assert "«half<|end|>»(x0.5)<|user|>" in shown
    assert re.search(r"«whole<\|end\|>»(?!\()", shown)


def test_weights_other_than_one_are_shown_on_the_page(padded: dict[str, Any]) -> None:
    page = render_html(padded)
    assert on_page(page, "loss weighted") == ["half<|end|>"]
    assert 'title="loss weight 0.5"' in page
    assert "whole<|end|>" in on_page(page, "loss")


def test_the_page_marks_the_runs_that_carry_loss_and_no_others(padded: dict[str, Any]) -> None:
    page = render_html(padded)
    wanted = [run for found in samples(padded) for run in carrying(found)]
    assert sorted(on_page(page, "loss(?: weighted)?")) == sorted(wanted)


def test_the_page_needs_no_other_file(padded: dict[str, Any], folder: Path) -> None:
    page = render_html(padded)
    assert "http" not in page
    assert "url(" not in page
    assert str(folder) not in "".join(re.findall(r"<img[^>]*>", page))
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 1 + sum(len(one["pictures"]) for one in samples(padded))
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources)


def test_markup_in_a_record_is_text_on_the_page(padded: dict[str, Any]) -> None:
    page = render_html(padded)
    assert "&lt;b&gt;" in page.replace("</i><i>", "")
    assert "<b>&amp;" not in page.replace("</i><i>", "")


def test_control_characters_of_a_record_do_not_reach_the_terminal(padded: dict[str, Any]) -> None:
    shown = render_text(padded)
    assert "\x1b" not in shown
    assert r"a\x1b[31mb" in shown


def test_colour_replaces_the_marks(padded: dict[str, Any]) -> None:
    shown = render_text(padded, colour=True)
    assert "\x1b[32mThe square is red.<|end|>\x1b[0m" in shown
    assert "«" not in shown


def test_long_texts_are_cut_in_the_terminal_with_a_note(padded: dict[str, Any]) -> None:
    line = next(line for line in render_text(padded).splitlines() if "characters more" in line)
    assert len(line) < LONGEST_TEXT + 100
    assert f"{len(text(sample(padded, 'long'))) - LONGEST_TEXT:,} characters more" in line


def test_long_texts_are_whole_on_the_page(padded: dict[str, Any]) -> None:
    assert "The square is blue. " * 200 + "<|end|>" in on_page(render_html(padded), "loss")


def test_pictures_stand_as_one_mark_with_their_number_of_tokens(padded: dict[str, Any]) -> None:
    found = sample(padded, "image-0")
    assert "<image x16>" in text(found)
    assert found["image_tokens"] == 16
    assert found["pictures"] == [{"height": 64, "width": 64, "tokens": 16}]


def test_a_photograph_becomes_a_small_jpeg() -> None:
    uri = thumbnail(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8))
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 150_000


def test_packed_rows_show_all_their_samples(folder: Path, processor: Any, packed: dict[str, Any]) -> None:
    config = setting(folder, "records.json", "unusual.json", packing={"length": 512}, max_length=None)
    dataset, _ = planned(config, processor)
    read = [[len(one["input_ids"]) for one in dataset[row]] for row in range(len(dataset))]
    assert any(len(row) > 1 for row in read)
    assert [[one["tokens"] for one in row["samples"]] for row in packed["shown"]] == read


def test_the_bar_of_a_packed_row_leaves_the_empty_rest(packed: dict[str, Any]) -> None:
    bars = re.findall(r'</h3>\n<div class="bar">(.*?)</div>', render_html(packed))
    shares = [sum(float(width) for width in re.findall(r"width: ([\d.]+)%", bar)) for bar in bars]
    assert shares == pytest.approx([100 * row["tokens"] / 512 for row in packed["shown"]], abs=0.05)


def test_shares_of_the_sources_sum_to_one(padded: dict[str, Any], packed: dict[str, Any]) -> None:
    for description in (padded, packed):
        for name in ("sample_share", "token_share"):
            assert sum(source[name] for source in description["sources"]) == pytest.approx(1)


def test_rows_sources_and_histogram_count_the_same_samples(padded: dict[str, Any]) -> None:
    assert sum(len(row["parts"]) for row in padded["shown"]) == padded["samples"] == padded["rows"]
    assert sum(source["planned_samples"] for source in padded["sources"]) == padded["samples"]
    assert [sum(counts) for counts in padded["lengths"]["sources"]] == [one["planned_samples"] for one in padded["sources"]]


def test_the_histogram_shows_what_was_too_long(padded: dict[str, Any]) -> None:
    assert sum(padded["lengths"]["over_long"]) == padded["sources"][1]["kinds"]["over_long"]["count"] == 1


def test_padding_is_what_the_collator_adds(folder: Path, processor: Any, padded: dict[str, Any]) -> None:
    from data.collate import Collator

    dataset, _ = planned(setting(folder, "records.json", "unusual.json"), processor)
    collate = Collator(processor.tokenizer, pictures_of(processor))
    sizes = [collate([dataset[row], dataset[row + 1]])["input_ids"].numel() for row in range(0, len(dataset), 2)]
    assert padded["padding_share"] == pytest.approx(1 - dataset.lengths().sum() / sum(sizes))


def test_bad_records_are_counted_by_kind_with_the_first(padded: dict[str, Any]) -> None:
    kinds = padded["sources"][1]["kinds"]
    assert {kind: found["count"] for kind, found in kinds.items()} == {"over_long": 1, "duplicate_id": 1, "missing_image": 1}
    assert "nowhere.png does not exist" in kinds["missing_image"]["first"]
    assert "left out: 3 bad records; `perennial validate` lists them" in render_text(padded)


def test_too_many_bad_records_are_told_beside_what_remains(folder: Path, processor: Any) -> None:
    found = described(setting(folder, "unusual.json", max_bad_share=0.1), processor)
    assert "training would not start: " in render_text(found)
    assert "Training would not start:" in render_html(found)
    assert "«whole" in render_text(found)


def test_a_source_of_which_nothing_is_left_stands_beside_the_others(folder: Path, processor: Any) -> None:
    found = described(setting(folder, "nothing.json", "records.json"), processor)
    assert [source["planned_samples"] for source in found["sources"]] == [0, found["samples"]]
    assert {one["source"] for one in samples(found)} == {1}
    assert not found["starts"]


def test_one_source_alone_can_be_shown(folder: Path, processor: Any) -> None:
    config = setting(folder, "records.json", "unusual.json", packing={"length": 512}, max_length=None)
    found = described(config, processor, layout="packed", source=1)
    assert {one["source"] for one in samples(found)} == {1}
    assert "of other sources in this row" in render_text(found)


def test_a_picture_that_went_away_is_told_in_place_of_its_sample(tmp_path: Path, processor: Any, make_data: Any) -> None:
    make_data(tmp_path, with_images=2, text_only=2)
    config = setting(tmp_path, "records.json")
    dataset, sources = planned(config, processor)
    (tmp_path / "images" / "0.png").unlink()
    found = describe(dataset, sources, config, processor.tokenizer, pictures_of(processor), Showing(micro_batch=4))
    assert "training would stop here: records.json record 0: image" in render_text(found)
    assert "«The square is green.<|end|>»" in render_text(found)


def test_files_hold_the_same_numbers_as_the_description(padded: dict[str, Any], tmp_path: Path) -> None:
    page = write_preview(padded, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "preview.json").read_text(encoding="utf-8")) == json.loads(json.dumps(numbers(padded)))
    assert (tmp_path / "out" / "length_histogram.png").read_bytes().startswith(b"\x89PNG")
    assert page.read_text(encoding="utf-8") == render_html(padded)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    from train.cli import main

    code = main(["preview", *words])
    return code, capsys.readouterr().out


def test_the_command_shows_the_order_that_training_takes(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoProcessor

    from train.config import make_recipe
    from train.run import deal_out, load_sources, plan_order

    values = {
        "model": {"base": str(tiny_folder)},
        "data": {"sources": [{"path": str(tiny_data)}]},
        "train": {"batch_size": 8, "micro_batch_size": 2, "seed": 3},
    }
    recipe, processor = make_recipe(values, where="here"), AutoProcessor.from_pretrained(tiny_folder)
    assert recipe.data is not None
    sources = load_sources(recipe.data, processor.tokenizer, pictures_of(processor), seed=3)
    dataset = deal_out(recipe, plan_order(sources, recipe, progress=False))
    wanted = [dataset[row][0]["input_ids"].tolist() for row in range(16)]

    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values | {"train": {"batch_size": 8, "micro_batch_size": 2}}), encoding="utf-8")
    code, out = command(capsys, str(path), "--json", "--samples", "16", "--train.seed", "3")
    shown = [row["samples"][0] for row in json.loads(out)["shown"]]
    assert code == 0
    assert [text(one).replace("<image x16>", "<image>" * 16) for one in shown] == [processor.tokenizer.decode(ids) for ids in wanted]


def test_the_command_ends_well_where_nothing_is_left_to_train_on(
    tiny_folder: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = command(capsys, str(folder / "nothing.json"), "--model", str(tiny_folder), "--output", str(tmp_path / "out"))
    assert code == 0
    assert "training would not start" in out
    assert "There are none." in (tmp_path / "out" / "preview.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [("--source", "1"), ("--samples", "-1"), ("--train.batch_sizes", "4")])
def test_a_wrong_request_is_told_as_one(
    tiny_folder: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    assert command(capsys, str(tiny_data), "--model", str(tiny_folder), *words)[0] == 2
