"""Samples and batches made from files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.collate import Collator
from data.config import SourceConfig
from data.dataset import IGNORED, MixedDataset, load_source
from data.images import ImageCache, load_image
from data.mixture import mix
from data.pictures import pictures_of


@pytest.fixture
def dataset(tiny: tuple[Any, Any], tiny_data: Path) -> MixedDataset:
    source = load_source(SourceConfig(path=str(tiny_data)), tiny[1].tokenizer, pictures_of(tiny[1]), 512)
    return MixedDataset([source], mix([source.source], 16, seed=0))


def test_labels_are_the_ids_where_the_answer_stands(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    for sample in (dataset[position] for position in range(16)):
        kept = sample["labels"] != IGNORED
        assert torch.equal(sample["labels"][kept], sample["input_ids"][kept])
        assert tiny[1].tokenizer.decode(sample["labels"][kept]).endswith(".<|end|>")


def test_a_batch_holds_the_pictures_in_the_order_of_its_samples(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    samples = [dataset[position] for position in range(8)]
    batch = Collator(tiny[1].tokenizer, pictures_of(tiny[1]))(samples)
    images = [image for sample in samples for image in sample["images"]]
    assert batch["pixel_values"].shape == (len(images), 3, 64, 64)
    for pixels, image in zip(batch["pixel_values"], images, strict=True):
        assert torch.allclose(pixels, tiny[1].image_processor(images=[image], return_tensors="pt")["pixel_values"][0])


def test_a_batch_of_text_has_no_pictures(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    samples = [sample for sample in (dataset[position] for position in range(16)) if not sample["images"]]
    assert "pixel_values" not in Collator(tiny[1].tokenizer, pictures_of(tiny[1]))(samples)


def test_padding_changes_neither_loss_nor_logits(dataset: MixedDataset, tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    samples = sorted((dataset[position] for position in range(4)), key=lambda sample: len(sample["input_ids"]))
    collate = Collator(processor.tokenizer, pictures_of(processor))
    with torch.no_grad():
        together = model(**{name: value for name, value in collate(samples).items() if name != "labels"}).logits
        alone = model(**{name: value for name, value in collate(samples[:1]).items() if name != "labels"}).logits
    assert len(samples[0]["input_ids"]) < together.shape[1]
    assert torch.allclose(together[0, : alone.shape[1]], alone[0], atol=1e-5)


def test_lengths_are_those_of_the_samples(dataset: MixedDataset) -> None:
    assert dataset.lengths().tolist() == [len(dataset[position]["input_ids"]) for position in range(16)]


def write(folder: Path, *answers: str) -> Path:
    records = [{"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": answer}]} for answer in answers]
    path = folder / "few.json"
    path.write_text(json.dumps([*records, {"conversations": [{"from": "human", "value": "Who?"}]}]), encoding="utf-8")
    return path


def test_what_is_left_out_is_counted_by_reason_with_its_place(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    source = load_source(SourceConfig(path=str(write(tmp_path, "Me.", "Me. " * 50))), tiny[1].tokenizer, pictures_of(tiny[1]), 40)
    assert len(source) == 1
    assert source.left_out == {
        "longer than data.max_length = 40 tokens": ["few.json record 1"],
        "no turn that carries loss": ["few.json record 2"],
    }


def test_a_file_with_nothing_left_to_learn_is_an_error(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"few\.json: no record is left to train on \(1 longer than"):
        load_source(SourceConfig(path=str(write(tmp_path, "Me. " * 50))), tiny[1].tokenizer, pictures_of(tiny[1]), 40)


def test_a_missing_picture_is_named_with_its_record(tiny: tuple[Any, Any], tiny_data: Path) -> None:
    (tiny_data.parent / "images" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"records\.json record 3: image .*3\.png does not exist"):
        load_source(SourceConfig(path=str(tiny_data)), tiny[1].tokenizer, pictures_of(tiny[1]), 512)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"half\.png cannot be read"):
        load_image(tmp_path / "half.png")


def test_the_cache_holds_no_more_than_its_limit(tiny_data: Path) -> None:
    cache = ImageCache(limit=2 * 64 * 64 * 3)
    folder = tiny_data.parent / "images"
    for name in ("0.png", "1.png", "2.png", "0.png"):
        assert np.array_equal(cache(str(folder / name)), load_image(folder / name))
    assert cache.bytes == cache.limit
