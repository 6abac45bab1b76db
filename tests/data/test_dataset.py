"""Samples, rows, batches made from files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.collate import Collator
from data.config import DataConfig
from data.dataset import IGNORED, MixedDataset, Samples, load_sources, per_sample
from data.pictures import pictures_of
from data.plan import Amount, make_plan


def load(path: Path, processor: Any, **settings: Any) -> Samples:
    source = {name: settings.pop(name) for name in ("loss_on", "turns", "max_records", "duplicate_ids", "format") if name in settings}
    config = DataConfig.model_validate({"sources": [{"path": str(path), **source}], "max_length": 512, "max_bad_share": 1.0} | settings)
    return load_sources(config, processor.tokenizer, pictures_of(processor))[0]


def rows_of(samples: Samples, *, batch_size: int = 8, steps: int = 2, seed: int = 0, **settings: Any) -> MixedDataset:
    config = DataConfig.model_validate({"sources": [{"path": "x"}], **settings})
    return MixedDataset([samples], make_plan([samples.source], [samples.tokens], config, Amount(batch_size=batch_size, steps=steps), seed))


@pytest.fixture
def dataset(tiny: tuple[Any, Any], tiny_data: Path) -> MixedDataset:
    return rows_of(load(tiny_data, tiny[1]))


def write(path: Path, *dialogues: list[tuple[Any, ...]], **more: Any) -> Path:
    """Each turn: who, what, and its weight or nothing."""
    records = []
    for dialogue in dialogues:
        found = [{"from": turn[0], "value": turn[1]} | ({"weight": turn[2]} if len(turn) > 2 else {}) for turn in dialogue]
        records.append({"conversations": found, **more})
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_labels_are_the_ids_where_the_answer_stands(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    for (sample,) in (dataset[position] for position in range(16)):
        kept = sample["labels"] != IGNORED
        assert torch.equal(sample["labels"][kept], sample["input_ids"][kept])
        assert tiny[1].tokenizer.decode(sample["labels"][kept]).endswith(".<|end|>")


def test_a_batch_holds_the_pictures_in_the_order_of_its_samples(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    rows = [dataset[position] for position in range(8)]
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]))(rows)
    images = [image for (sample,) in rows for image in sample["images"]]
    assert batch["pixel_values"].shape == (len(images), 3, 64, 64)
    for pixels, image in zip(batch["pixel_values"], images, strict=True):
        assert torch.allclose(pixels, tiny[1].image_processor(images=[image], return_tensors="pt")["pixel_values"][0])


def test_a_batch_of_text_has_no_pictures(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    rows = [row for row in (dataset[position] for position in range(16)) if not row[0]["images"]]
    assert "pixel_values" not in Collator(tiny[1].tokenizer, pictures_of(tiny[1]))(rows)


def test_padding_changes_neither_loss_nor_logits(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    rows = sorted((dataset[position] for position in range(4)), key=lambda row: len(row[0]["input_ids"]))
    collate = Collator(processor.tokenizer, pictures_of(processor))
    with torch.no_grad():
        together = model(**{name: value for name, value in collate(rows).items() if name != "labels"}).logits
        alone = model(**{name: value for name, value in collate(rows[:1]).items() if name != "labels"}).logits
    assert len(rows[0][0]["input_ids"]) < together.shape[1]
    assert torch.allclose(together[0, : alone.shape[1]], alone[0], atol=1e-5)


def test_lengths_are_those_of_the_rows(dataset: MixedDataset) -> None:
    assert dataset.lengths().tolist() == [len(dataset[position][0]["input_ids"]) for position in range(16)]


def test_any_number_of_loaders_gives_the_same_batches(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    from torch.utils.data import DataLoader

    collate = Collator(tiny[1].tokenizer, pictures_of(tiny[1]))
    alone, helped = (list(DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_what_is_too_long_or_teaches_nothing_is_counted_with_its_place(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    path = write(tmp_path / "few.json", [("human", "Who?"), ("gpt", "Me.")], [("human", "Who?"), ("gpt", "Me. " * 50)], [("human", "Who?")])
    samples = load(path, tiny[1], max_length=40)
    assert len(samples) == 1
    assert [(problem.record, problem.kind) for problem in samples.problems] == [(1, "over_long"), (2, "nothing_to_learn")]


def test_an_over_long_dialogue_is_split_between_rounds_with_its_picture_and_system_turn(
    tiny: tuple[Any, Any], tiny_data: Path, tmp_path: Path
) -> None:
    turns = [("system", "Be brief."), ("human", "<image>\nWhat is it?"), ("gpt", "A square. " * 3)]
    turns += [turn for number in range(4) for turn in (("human", f"And {number}?"), ("gpt", f"It is {number}. " * 3))]
    path = write(tmp_path / "long.json", turns, image=str(tiny_data.parent / "images" / "0.png"))
    whole, parts = load(path, tiny[1]), load(path, tiny[1], max_length=90, over_long="split")
    assert (len(whole), len(parts)) == (1, 4)
    assert parts.problems == ()
    tokenizer = tiny[1].tokenizer
    texts = [tokenizer.decode(row[0]["input_ids"]) for row in rows_of(parts, batch_size=4, steps=1)]
    assert all(text.count("<image>") == 16 and "Be brief." in text for text in texts)

    def learned(samples: Samples, size: int) -> str:
        rows = sorted(rows_of(samples, batch_size=size, steps=1), key=lambda row: tokenizer.decode(row[0]["input_ids"]).find("And"))
        return "".join(sorted(tokenizer.decode(row[0]["labels"][row[0]["labels"] != IGNORED]) for row in rows))

    assert sorted(learned(parts, 4)) == sorted(learned(whole, 1))


def test_a_round_that_is_too_long_alone_is_not_split(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "long.json", [("human", "Who?"), ("gpt", "Me. " * 60), ("human", "Who?"), ("gpt", "Me.")])
    samples = load(path, tiny[1], max_length=60, over_long="split")
    assert (len(samples), samples.kinds) == (0, {"over_long": 1})


def test_ids_given_twice_may_be_allowed(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "few.json", *[[("human", "Who?"), ("gpt", "Me.")]] * 3, id="same")
    assert load(path, tiny[1]).kinds == {"duplicate_id": 2}
    allowed = load(path, tiny[1], duplicate_ids="allow")
    assert (len(allowed), allowed.kinds, allowed.repairs) == (3, {}, {"duplicate_id": 2})


def test_records_without_an_id_are_no_duplicates_of_one_named_like_their_number(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    records = [{"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]} for _ in range(3)]
    (tmp_path / "few.json").write_text(json.dumps([records[0] | {"id": 1}, *records[1:]]))
    assert load(tmp_path / "few.json", tiny[1]).kinds == {}


def test_a_cap_draws_the_same_records_for_the_same_seed(tiny: tuple[Any, Any], tiny_data: Path) -> None:
    first, again = (load(tiny_data, tiny[1], max_records=5) for _ in range(2))
    assert (len(first), first.unused, first.problems) == (5, 11, ())
    assert first.rows.tolist() == again.rows.tolist()


def test_a_smaller_cap_draws_from_a_larger_one_wherever_the_source_stands(tiny: tuple[Any, Any], tiny_data: Path, tmp_path: Path) -> None:
    other = {"path": str(write(tmp_path / "few.json", [("human", "Who?"), ("gpt", "Me.")]))}
    drawn = []
    for sources in ([{"max_records": 3}], [other, {"max_records": 7}]):
        config = DataConfig.model_validate({"sources": [{"path": str(tiny_data)} | one for one in sources], "max_length": 512})
        drawn.append(set(load_sources(config, tiny[1].tokenizer, pictures_of(tiny[1]), seed=3)[-1].rows.tolist()))
    assert [len(one) for one in drawn] == [3, 7]
    assert drawn[0] < drawn[1]


def test_the_last_answer_alone_may_carry_loss(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "few.json", [("human", "Who?"), ("gpt", "Me."), ("human", "Where?"), ("gpt", "Here.")])
    ((sample,),) = rows_of(load(path, tiny[1], turns="last"), batch_size=1, steps=1)
    assert tiny[1].tokenizer.decode(sample["labels"][sample["labels"] != IGNORED]) == "Here.<|end|>"


def test_weights_of_turns_reach_the_batch(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "few.json", [("human", "Who?"), ("gpt", "Me.", 0.25), ("human", "Where?"), ("gpt", "Here.", 0)])
    dataset = rows_of(load(path, tiny[1]), batch_size=1, steps=1)
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]))([dataset[0]])
    learned = batch["labels"] != IGNORED
    assert tiny[1].tokenizer.decode(batch["labels"][learned]) == "Me.<|end|>"
    assert torch.equal(batch["loss_weights"], learned * 0.25)


def test_weights_of_one_need_no_room_in_the_batch(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    assert "loss_weights" not in Collator(tiny[1].tokenizer, pictures_of(tiny[1]))([dataset[0]])


@pytest.mark.parametrize("change", ["removed", "broken", "resized"])
def test_a_picture_that_changes_behind_the_index_stops_the_run_by_name(dataset: MixedDataset, tiny_data: Path, change: str) -> None:
    from PIL import Image

    for path in (tiny_data.parent / "images").iterdir():
        path.unlink() if change == "removed" else path.write_bytes(b"x") if change == "broken" else Image.new("RGB", (9, 9)).save(path)
    position = int(np.flatnonzero(per_sample(dataset.sources, dataset.plan, "num_images"))[0])
    with pytest.raises(RuntimeError, match=r"^records\.json record \d: .*when it was indexed"):
        dataset[position]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_packed_rows_give_the_losses_and_gradients_of_padded_ones(
    tiny_folder: Path, make_data: Callable[..., Path], tmp_path: Path, attention: str, training: bool
) -> None:
    from model.build import load_pair

    model, processor = load_pair(tiny_folder, attention=attention)
    samples = load(make_data(tmp_path / "data"), processor)
    packed = rows_of(samples, batch_size=1, steps=4, packing={"length": 128})
    held = [sample for row in packed for sample in row]
    assert max(len(row) for row in packed) > 1
    assert any(sample["images"] for sample in held)
    assert any(not sample["images"] for sample in held)
    model.train(training)
    found = []
    for layout, rows in (("padded", [[sample] for sample in held]), ("packed", list(packed))):
        batch = Collator(processor.tokenizer, pictures_of(processor), layout)(rows)
        for name in ("visible_until", "sources", "text_only"):
            batch.pop(name, None)
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch, use_cache=False).logits[:, :-1]
        keep = labels != IGNORED
        loss = torch.nn.functional.cross_entropy(logits[keep], labels[keep], reduction="none")
        model.zero_grad()
        loss.sum().backward()
        found.append(
            (loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None})
        )
    (loss, gradients), (other, others) = found
    assert torch.allclose(loss, other, atol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-4 * gradient.abs().max() + 1e-6), name


def test_packed_rows_tell_where_samples_begin(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    rows = [[*dataset[0], *dataset[1]], dataset[2]]
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]), "packed")(rows)
    first, second, alone = (len(dataset[number][0]["input_ids"]) for number in range(3))
    assert batch["position_ids"][0].tolist() == [*range(first), *range(second)]
    assert batch["visible_until"][0].tolist() == [first] * first + [first + second] * second
    assert batch["visible_until"][1].tolist() == [alone] * alone + [first + second] * (first + second - alone)
    assert batch["visible_until"].dtype == torch.int32


@pytest.mark.parametrize("layout", ["padded", "packed", "flat"])
def test_every_token_knows_its_source_and_whether_its_sample_has_a_picture(
    dataset: MixedDataset, tiny: tuple[Any, Any], layout: Any
) -> None:
    row = next(row for row in dataset if not row[0]["images"])[0] | {"source": 3}
    other = next(row for row in dataset if row[0]["images"])[0]
    first, second = len(row["input_ids"]), len(other["input_ids"])
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]), layout)([[row], [other]])
    found = list(zip(batch["sources"].flatten().tolist(), batch["text_only"].flatten().tolist(), strict=True))
    padding = [] if layout == "flat" else [(-1, False)] * (second - first)
    assert first < second
    assert found == [(3, True)] * first + padding + [(0, False)] * second


def test_rows_without_a_tree_need_no_predictors(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    assert "predictors" not in Collator(tiny[1].tokenizer, pictures_of(tiny[1]), "packed")([dataset[0]])


def test_flat_rows_carry_what_flash_attention_wants(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    rows = [[*dataset[0], *dataset[1]], dataset[2]]
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]), "flat")(rows)
    lengths = [len(dataset[number][0]["input_ids"]) for number in range(3)]
    assert batch["input_ids"].shape == (1, sum(lengths))
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, *np.cumsum(lengths).tolist()]
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths)


def test_packed_rows_of_models_with_positions_in_three_dimensions_tell_their_pictures(
    dataset: MixedDataset, family_folder: Callable[[str], Path], tmp_path: Path, make_data: Callable[..., Path]
) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(family_folder("qwen2_5_vl"))
    packed = rows_of(load(make_data(tmp_path), processor), batch_size=1, steps=2, packing={"length": 256})
    batch = Collator(processor.tokenizer, pictures_of(processor), "packed")(list(packed))
    image = processor.tokenizer.convert_tokens_to_ids(pictures_of(processor).token)
    assert batch["mm_token_type_ids"].sum() > 0
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == image)
    assert batch["position_ids"].shape == batch["input_ids"].shape


def test_of_a_split_dialogue_the_last_answer_alone_carries_loss_when_only_that_is_wanted(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    turns = [turn for number in range(6) for turn in (("human", f"What is {number}?"), ("gpt", f"It is {number}. " * 3))]
    samples = load(write(tmp_path / "long.json", turns), tiny[1], max_length=80, over_long="split", turns="last")
    (sample,) = rows_of(samples, batch_size=1, steps=1)[0]
    assert tiny[1].tokenizer.decode(sample["labels"][sample["labels"] != IGNORED]) == "It is 5. " * 3 + "<|end|>"
    assert len(samples) == 1
    assert samples.repairs["split"] == 1
    assert samples.repairs["piece_without_loss"] > 0


@pytest.mark.parametrize("weight", [1e39, 1e-46, -1, float("nan")])
def test_a_weight_that_float32_cannot_hold_is_a_bad_record(weight: float, tiny: tuple[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "few.json", [("human", "Who?"), ("gpt", "Me.", weight)])
    assert load(path, tiny[1]).kinds == {"bad_weight": 1}
