"""What the logs of a step tell beside its loss."""

import pytest
import torch

from train.losses import Rows
from train.tally import Tally, names_of


def rows(sources: list[int], weights: list[float]) -> Rows:
    empty = torch.zeros(len(sources), dtype=torch.long)
    return Rows(
        batch=empty, position=empty, labels=empty, weights=torch.tensor(weights), text_only=empty.bool(), sources=torch.tensor(sources)
    )


@pytest.fixture
def tally() -> Tally:
    found = Tally(["cross_entropy", "lwf"], ["a", "b", "c"])
    found.saw({"sources": torch.tensor([[0, 0, -1], [1, 1, 1]], dtype=torch.int32)})
    found.lost(rows([0, 0, 1], [1.0, 3.0, 1.0]), torch.tensor([2.0, 4.0, 7.0]), torch.tensor([21.0, 2.0]), torch.tensor([5.0, 0.0]))
    return found


def alone(values: torch.Tensor) -> torch.Tensor:
    return values


def test_a_sources_loss_is_the_weighted_mean_over_its_tokens(tally: Tally) -> None:
    logs = tally.logs(alone)
    assert (logs["loss/a"], logs["loss/b"]) == pytest.approx((3.5, 7.0))


def test_sources_that_were_not_seen_are_not_named(tally: Tally) -> None:
    assert "loss/c" not in tally.logs(alone)


def test_terms_are_named_where_something_counted(tally: Tally) -> None:
    logs = tally.logs(alone)
    assert logs["term/cross_entropy"] == pytest.approx(4.2)
    assert "term/lwf" not in logs


def test_padding_is_what_no_source_stands_in(tally: Tally) -> None:
    assert tally.logs(alone)["padding_share"] == pytest.approx(1 / 6)


def test_processes_are_added_up_before_the_division(tally: Tally) -> None:
    other = Tally(["cross_entropy", "lwf"], ["a", "b", "c"])
    other.saw({"sources": torch.tensor([[0, -1, -1, -1]], dtype=torch.int32)})
    other.lost(rows([0], [4.0]), torch.tensor([10.0]), torch.tensor([40.0, 0.0]), torch.tensor([4.0, 0.0]))
    told: list[torch.Tensor] = []
    other.logs(lambda values: told.append(values) or values)
    logs = tally.logs(lambda values: torch.cat([values, told[0]]))
    assert logs["loss/a"] == pytest.approx((2 + 12 + 40) / 8)
    assert logs["padding_share"] == pytest.approx(4 / 10)


def test_every_log_begins_anew(tally: Tally) -> None:
    tally.logs(alone)
    tally.saw({"sources": torch.tensor([[0, 0]], dtype=torch.int32)})
    tally.lost(rows([2], [1.0]), torch.tensor([1.0]), torch.zeros(2), torch.zeros(2))
    assert tally.logs(alone) == {"padding_share": 0.0, "loss/c": 1.0}


def test_sources_of_one_name_are_numbered() -> None:
    assert names_of(["data/a.json", "other/a.json", "trees/"]) == ["a-0", "a-1", "trees"]
