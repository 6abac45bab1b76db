"""Two ranks with teachers, with a loss that breaks on one of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from arranged import Step, Values, blended, curve, difference, train_arranged, weights
from ranks import Ranks

BLENDS = [blended(blend, 1) for blend in ("TT II", "TI IT", "TT TT", "II TT")]
TOLERANCE = 1e-5  # relative
TERMS = [{"kind": "cross_entropy"}, {"kind": "kl_to_base", "weight": 2.0}, {"kind": "lwf", "on": "images"}]
LORA = {"preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 4}}


@pytest.mark.parametrize("model", [{"preset": "full"}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_teachers_on_two_ranks_teach_as_in_one_process(
    ranks: Ranks, alone: Ranks, make: Callable[..., Values], zero: str, model: dict[str, Any]
) -> None:
    two, one = (make(zero=stage, model=dict(model), losses=TERMS) for stage in (zero, "zero0"))
    ranks.run(train_arranged, values=two, steps=BLENDS)
    alone.run(train_arranged, values=one, steps=BLENDS)
    found, expected = (Path(values["output"]) for values in (two, one))
    assert curve(found)["loss"] == pytest.approx(curve(expected)["loss"], rel=TOLERANCE)
    assert difference(weights(found), weights(expected)) < TOLERANCE


def train_until_it_breaks(values: Values, steps: list[Step], broken: int) -> str:
    """Trains with one record whose loss is not a number; gives how this rank ended."""
    from unittest.mock import patch

    import train.objective as module

    original = module.token_losses

    def breaking(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return original(logits, labels) * (float("nan") if broken in labels else 1.0)

    with patch.object(module, "token_losses", breaking):
        try:
            train_arranged(values, steps)
        except FloatingPointError as problem:
            return str(problem)
    return "done"


def token_of(folder: Path, sentence: str, *others: str) -> int:
    """A token of a sentence that is in none of the others."""
    from transformers import AutoTokenizer

    ids = [set(AutoTokenizer.from_pretrained(folder)(text).input_ids) for text in (sentence, *others)]
    return min(ids[0].difference(*ids[1:]))


def test_a_loss_that_breaks_on_one_rank_stops_both_with_the_records_of_both(
    ranks: Ranks, make: Callable[..., Values], tiny_folder: Path
) -> None:
    plain = ("The square is red.", "The square is green.", "The square is blue.", *(f"{n} plus two is {n + 2}." for n in range(8)))
    broken = token_of(tiny_folder, "The square is yellow.", *plain)
    values = make()
    steps = [blended("TT TT", 1), blended("TT II", 1), [[3], [8], [9], [10]]]
    ended = ranks.run(train_until_it_breaks, values=values, steps=steps, broken=broken)
    assert all("step 3" in one for one in ended), ended
    told = json.loads((Path(values["output"]) / "offending.json").read_text())
    assert sorted(record["record"] for record in told["records"]) == [3, 8, 9, 10]
