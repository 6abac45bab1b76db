"""What two ranks compute, against plain PyTorch; what they hold and save under ZeRO-3, against plain transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from arranged import Step, Values, blended, checkpoint, curve, train_arranged, values_of
from ranks import Ranks
from safetensors.torch import load_file

STEPS = [blended(blend, 1) for blend in ("TT II", "TI IT", "TT TT", "II TT")]
TOLERANCE = 1e-5  # relative


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> Values:
    return values_of(tmp_path_factory.mktemp("runs") / "run", tiny_folder, data, zero="zero3")


def held_then_trained(values: Values, steps: list[Step]) -> dict[str, Any]:
    """Trains; gives the norm of each parameter as the engine holds it before the first step, and how many are partitioned."""
    from train import distributed
    from train.trainer import MixtureTrainer

    found: dict[str, Any] = {}
    original = MixtureTrainer.compute_loss

    def looking(self: Any, *arguments: Any, **options: Any) -> Any:
        if not found:
            parameters = dict(self.model.named_parameters())
            found["partitioned"] = sum(one.numel() == 0 for one in parameters.values())
            with distributed.gathered(parameters.values()):
                found["norms"] = {name: float(one.detach().norm()) for name, one in parameters.items()}
        return original(self, *arguments, **options)

    with patch.object(MixtureTrainer, "compute_loss", looking):
        train_arranged(values, steps)
    return found


@pytest.fixture(scope="module")
def trained(ranks: Ranks, values: Values) -> list[dict[str, Any]]:
    return ranks.run(held_then_trained, values=values, steps=STEPS)


def plain_curve(folder: Path, data: Path, steps: list[Step]) -> dict[str, list[float]]:
    """Loss and gradient norm of a bare loop over whole batches: no engine, no blank picture.

    A parameter that a batch does not reach has a gradient of zero: it decays and keeps its momentum in that step.
    """
    from data.collate import Collator
    from data.config import DataConfig
    from data.dataset import MixedDataset, load_sources
    from data.pictures import pictures_of
    from data.plan import Amount, make_plan
    from model.build import load_pair

    model, processor = load_pair(folder)
    pictures = pictures_of(processor)
    config = DataConfig.model_validate({"sources": [{"path": str(data)}]})
    (source,) = load_sources(config, processor.tokenizer, pictures)
    dataset = MixedDataset([source], make_plan([source.source], [source.tokens], config, Amount(batch_size=1, steps=1), 0))
    collate = Collator(processor.tokenizer, pictures)
    parameters = list(model.parameters())
    matrices = {id(one) for one in parameters if one.dim() > 1} - {
        id(one.weight) for one in model.modules() if isinstance(one, torch.nn.Embedding)
    }
    groups = [
        {"params": [one for one in parameters if id(one) in matrices], "weight_decay": 0.1},
        {"params": [one for one in parameters if id(one) not in matrices], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    found: dict[str, list[float]] = {"loss": [], "grad_norm": []}
    for step in steps:
        batch = collate([[dataset.sample(0, record) for record in row] for row in step])
        labels = batch.pop("labels")
        inputs = {name: batch[name] for name in ("input_ids", "pixel_values") if name in batch}
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        for one in parameters:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found["loss"].append(loss.item())
        found["grad_norm"].append(norm.item())
    return found


def test_two_ranks_take_the_steps_of_a_bare_loop(
    trained: list[dict[str, Any]], alone: Ranks, values: Values, tiny_folder: Path, data: Path
) -> None:
    (expected,) = alone.run(plain_curve, folder=tiny_folder, data=data, steps=STEPS)
    found = curve(Path(values["output"]))
    assert found["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=TOLERANCE)


def test_under_zero3_the_weights_are_those_of_the_file(trained: list[dict[str, Any]], tiny_folder: Path) -> None:
    file = sorted(float(one.norm()) for one in load_file(tiny_folder / "model.safetensors").values())
    for rank in trained:
        assert sorted(rank["norms"].values()) == pytest.approx(file, rel=1e-6)


def test_under_zero3_each_rank_holds_parts_alone(trained: list[dict[str, Any]]) -> None:
    assert [rank["partitioned"] for rank in trained] == [len(trained[0]["norms"])] * 2


def test_plain_transformers_loads_what_zero3_saved_with_equal_logits(
    trained: list[dict[str, Any]], alone: Ranks, values: Values, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    whole = values_of(tmp_path / "run", tiny_folder, data, zero="zero0")
    alone.run(train_arranged, values=whole, steps=STEPS)
    folders = [checkpoint(Path(one["output"])) for one in (values, whole)]
    assert [path.suffix for path in folders[0].iterdir() if "model" in path.name] == [".safetensors"]
    picture = torch.arange(64 * 64 * 3).reshape(64, 64, 3).byte().numpy()
    processor = AutoProcessor.from_pretrained(folders[0])
    inputs = processor(text="<s><|user|><image>\nWho?<|end|><|assistant|>", images=picture, return_tensors="pt")
    with torch.no_grad():
        found, expected = (LlavaForConditionalGeneration.from_pretrained(folder).eval()(**inputs).logits for folder in folders)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
