"""Every family trains on pictures and text in one mixture, then answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.build import load_pair
from train.config import make_recipe
from train.run import train

FAMILIES = ("llava-siglip-qwen2", "llava-clip-qwen3", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records about pictures of several shapes, one record with two pictures, records of text."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    records = []
    for number, size in enumerate([(56, 56), (90, 40), (40, 90), (64, 64)]):
        Image.linear_gradient("L").convert("RGB").resize(size).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat colour is the square?"}, {"from": "gpt", "value": "The square is red."}]
        records.append({"id": number, "image": f"{number}.png", "conversations": turns})
    turns = [{"from": "human", "value": "<image><image>\nWhat is in the picture?"}, {"from": "gpt", "value": "The square is blue."}]
    records.append({"id": 4, "image": ["0.png", "1.png"], "conversations": turns})
    for number in range(5, 8):
        turns = [{"from": "human", "value": "What is two plus five?"}, {"from": "gpt", "value": "Two plus five is 7."}]
        records.append({"id": number, "conversations": turns})
    path = folder / "records.json"
    path.write_text(json.dumps(records))
    return path


def run(folder: Path, base: Path, data: Path, **settings: Any) -> Any:
    values = {
        "model": {"base": str(base), "preset": settings.pop("preset", "full"), "attention": "eager"},
        "data": {"sources": [{"path": str(data)}]},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "steps": 2, "warmup_share": 0.0, "schedule": "constant", **settings},
        "output": str(folder),
    }
    return train(make_recipe(values), progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_pair(folder)[0].state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_with_a_batch_of_text_alone_moves_exactly_the_manifest(
    family_folder: Callable[[str], Path], data: Path, tmp_path: Path, family: str
) -> None:
    base = family_folder(family)
    result = run(tmp_path / "run", base, data, micro_batch_size=1, verify_frozen=True)  # some micro batches hold text alone
    before, after = weights(base), weights(result.checkpoint)
    manifest = {tensor["name"] for tensor in json.loads((result.folder / "trainable.json").read_text())["tensors"]}
    assert {name for name in before if not torch.equal(before[name], after[name])} == manifest


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_give_the_loss_of_the_whole_batch(
    family_folder: Callable[[str], Path], data: Path, tmp_path: Path, family: str
) -> None:
    found = []
    for size in (1, 8):
        folder = run(tmp_path / str(size), family_folder(family), data, preset="llm", micro_batch_size=size).folder
        found.append([json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert found[0] == pytest.approx(found[1], rel=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_ids_are_those_of_the_familys_own_processor(family_folder: Callable[[str], Path], data: Path, family: str) -> None:
    from data.chat import prompt_ids, render_prompt
    from data.images import load_image
    from data.pictures import pictures_of
    from data.readers import read

    processor = load_pair(family_folder(family))[1]
    pictures = pictures_of(processor)
    for one in read(str(data), "llava")[:5]:
        prompt = render_prompt(one, processor.tokenizer, mark=pictures.mark)
        images = [[load_image(path) for path in one.images]]
        theirs = processor(text=[prompt], images=images, add_special_tokens=False)["input_ids"][0]
        assert prompt_ids(one, processor.tokenizer, pictures=pictures) == list(theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_depend_on_the_batch(family_folder: Callable[[str], Path], data: Path, family: str) -> None:
    from data.readers import read
    from train.evaluate.generate import Request, answer

    model, processor = load_pair(family_folder(family), attention="eager")
    requests = [Request(conversation=one, max_tokens=4) for one in read(str(data), "llava")[:4]]
    together = answer(model, processor, requests, progress=False)
    alone = [answer(model, processor, [request], progress=False)[0] for request in requests]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
