"""When a blank picture is shown, and that it changes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.pictures import pictures_of
from model.presets import apply, select
from train.blank import blank_inputs, text_only_batches

IDS = torch.tensor([[1, 20, 30, 40, 50]])


def chosen(pair: tuple[Any, Any], preset: str) -> Any:
    model, _ = pair
    apply(model, preset)
    return model


@pytest.mark.parametrize(
    ("preset", "partitioned", "needed"),
    [("full", False, True), ("projector", False, True), ("llm", False, False), ("llm", True, True)],
)
def test_a_blank_is_needed_where_the_seeing_parts_train_or_parameters_are_partitioned(
    tiny: tuple[Any, Any], preset: str, partitioned: bool, needed: bool
) -> None:
    found = blank_inputs(chosen(tiny, preset), pictures_of(tiny[1]), partitioned=partitioned)
    assert (found is not None) == needed


def test_a_model_without_a_tower_never_needs_one(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    from model.build import load_pair
    from model.language import save

    model, tokenizer = load_pair(save(*tiny, tmp_path / "language"))
    assert blank_inputs(model, pictures_of(tokenizer), partitioned=True) is None


def test_it_is_one_picture(tiny: tuple[Any, Any]) -> None:
    found = blank_inputs(chosen(tiny, "full"), pictures_of(tiny[1]), partitioned=False)
    assert found is not None
    assert found["pixel_values"].shape[0] == 1


def passed(pair: tuple[Any, Any], preset: str, blank: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Logits of a text with their gradients, with a blank picture or without."""
    model = chosen(pair, preset)
    inputs = blank_inputs(model, pictures_of(pair[1]), partitioned=True) if blank else {}
    with text_only_batches(SimpleNamespace(model=model, shows_a_blank=blank)):
        logits = model(input_ids=IDS, use_cache=False, **(inputs or {})).logits
        logits.logsumexp(-1).sum().backward()
    found = {name: one.grad for name, one in model.named_parameters()}
    model.zero_grad()
    return logits.detach(), found


def test_a_blank_changes_no_logit(tiny: tuple[Any, Any]) -> None:
    assert torch.equal(passed(tiny, "full", True)[0], passed(tiny, "full", False)[0])


def test_its_gradients_are_exact_zeros_for_whatever_sees(tiny: tuple[Any, Any]) -> None:
    _, gradients = passed(tiny, "full", True)
    seeing = [name for name in select(tiny[0], "vision+projector") if gradients[name] is None or gradients[name].any()]
    assert not seeing


def test_its_gradients_elsewhere_are_those_without_it(tiny: tuple[Any, Any]) -> None:
    with_blank, without = (passed(tiny, "full", blank)[1] for blank in (True, False))
    for name in select(tiny[0], "llm"):
        assert torch.equal(with_blank[name], without[name]), name


@pytest.mark.parametrize(("preset", "kept"), [("llm", False), ("projector+llm", True)])
def test_a_frozen_tower_with_a_frozen_projector_keeps_no_graph(tiny: tuple[Any, Any], preset: str, kept: bool) -> None:
    model = chosen(tiny, preset)
    model.enable_input_require_grads()  # as gradient checkpointing does
    pixels = torch.zeros(1, 3, 64, 64)
    with text_only_batches(SimpleNamespace(model=model, shows_a_blank=False)):
        features = model.model.get_image_features(pixel_values=pixels).pooler_output
    assert features[0].requires_grad == kept
