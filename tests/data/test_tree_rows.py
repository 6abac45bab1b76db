"""Dialogues of a tree that share rows: what is read, planned, laid out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from growing import write_tree

from data.collate import Collator
from data.config import DataConfig
from data.conversation import Conversation
from data.dataset import IGNORED, MixedDataset, Samples, join_trees, load_sources
from data.pictures import pictures_of
from data.plan import Amount, make_plan
from data.readers import stream

LENGTH = 512
CHILDREN = [4, 1, 3, 1, 2, 1]  # 24 dialogues of three rounds


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "tree", CHILDREN, system="Be brief.")


def load(path: Path, processor: Any, length: int = LENGTH, **source: Any) -> tuple[DataConfig, Samples]:
    values = {"sources": [{"path": str(path), "format": "tree", **source}], "packing": {"length": length}}
    config = DataConfig.model_validate(values)
    return config, load_sources(config, processor.tokenizer, pictures_of(processor))[0]


def rows_of(config: DataConfig, *samples: Samples, batch_size: int = 1) -> MixedDataset:
    plan = make_plan([one.source for one in samples], [one.tokens for one in samples], config, Amount(batch_size=batch_size), 0)
    return MixedDataset(samples, plan)


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def apart(tree: Path, processor: Any) -> MixedDataset:
    return rows_of(*load(tree, processor))


@pytest.fixture(scope="module")
def together(tree: Path, processor: Any) -> MixedDataset:
    config, samples = load(tree, processor)
    return rows_of(config, *join_trees([samples], LENGTH))


def every(dataset: MixedDataset, number: int = 0) -> list[dict[str, Any]]:
    return [dataset.sample(number, one) for one in range(len(dataset.sources[number]))]


def paths(sample: dict[str, Any]) -> Counter[tuple[int, ...]]:
    """What each token of a sample sees, with what it weighs."""
    until = sample.get("visible_until", torch.full((len(sample["input_ids"]),), len(sample["input_ids"])))
    found = Counter[tuple[int, ...]]()
    for token, weight in enumerate(sample["weights"].tolist()):
        seen = (until[: token + 1] > token).nonzero().squeeze(-1)
        found[tuple(sample["input_ids"][seen].tolist())] += weight
    return found


def total(samples: list[dict[str, Any]]) -> Counter[tuple[int, ...]]:
    found = Counter[tuple[int, ...]]()
    for sample in samples:
        for path, weight in paths(sample).items():
            found[path] += weight
    return found


def test_joined_dialogues_weigh_token_by_token_what_separate_ones_do(apart: MixedDataset, together: MixedDataset) -> None:
    separate, joined = total(every(apart)), total(every(together))
    assert len(together.sources[0]) < len(apart.sources[0]) == 24
    assert joined.keys() == separate.keys()
    for path, weight in joined.items():
        assert weight == pytest.approx(separate[path], abs=1e-6)


def test_tokens_of_the_joined_samples_are_those_that_are_read(together: MixedDataset) -> None:
    assert [len(one["input_ids"]) for one in every(together)] == together.sources[0].tokens.tolist()


def test_where_rows_are_long_enough_every_shared_token_stands_once(tree: Path, processor: Any) -> None:
    (whole,) = join_trees([load(tree, processor, length=4096)[1]], 4096)
    distinct = len(total(every(rows_of(*load(tree, processor)))))
    assert len(whole) == CHILDREN[0]
    openings = whole.tokens.sum() - distinct  # of the other three first questions
    assert 0 < openings <= 3 * 40


def test_labels_stand_where_any_dialogue_learns(together: MixedDataset) -> None:
    for sample in every(together):
        assert torch.equal(sample["labels"] != IGNORED, sample["weights"] > 0)
        assert sample["labels"][0] == IGNORED


def test_dialogues_of_different_first_questions_are_not_joined(together: MixedDataset) -> None:
    samples = together.sources[0]
    ids = samples.index.table["id"]
    for first, last in zip(samples.bounds, samples.bounds[1:], strict=False):
        assert len({ids[int(row)].partition(".")[0] for row in samples.rows[first:last]}) == 1


def test_other_sources_are_left_as_they_are(processor: Any, tiny_data: Path) -> None:
    config = DataConfig.model_validate({"sources": [{"path": str(tiny_data)}], "packing": {"length": 256}})
    sources = load_sources(config, processor.tokenizer, pictures_of(processor))
    assert join_trees(sources, 256)[0] is sources[0]


def test_drawn_records_are_the_same_joined_or_not(tree: Path, processor: Any) -> None:
    _, samples = load(tree, processor, max_records=11)
    (joined,) = join_trees([samples], LENGTH)
    assert joined.rows.tolist() == samples.rows.tolist()
    assert joined.dialogues.sum() == len(samples) == 11


def test_rows_of_an_index_in_many_blocks_share_as_much(tree: Path, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import data.branches

    _, samples = load(tree, processor)
    whole = data.branches.shared_tokens(samples.index.table, samples.rows)
    monkeypatch.setattr(data.branches, "BLOCK", 5)
    assert data.branches.shared_tokens(samples.index.table, samples.rows).tolist() == whole.tolist()
    ids = [row["input_ids"] for row in samples.index.table.select(samples.rows)]
    roots = [row["id"].partition(".")[0] for row in samples.index.table.select(samples.rows)]
    for number in range(1, len(ids)):
        common = next((place for place, (a, b) in enumerate(zip(ids[number - 1], ids[number], strict=False)) if a != b), None)
        assert whole[number] == (common if roots[number] == roots[number - 1] else 0)


def test_a_batch_lays_trees_beside_others_in_its_rows(together: MixedDataset, apart: MixedDataset, processor: Any) -> None:
    plain, branched = apart.sample(0, 0), next(one for one in every(together) if "predictors" in one)
    first, size = len(plain["input_ids"]), len(branched["input_ids"])
    longer = {name: value for name, value in branched.items() if name not in ("positions", "visible_until", "predictors")}
    batch = Collator(processor.tokenizer, pictures_of(processor), "packed")([[plain, branched], [longer]])
    width = first + size
    assert batch["predictors"][0].tolist() == [0, *range(first - 1), *(branched["predictors"] + first).tolist()]
    assert batch["predictors"][1].tolist() == [0, *range(size - 1), *range(size, width)]
    assert batch["visible_until"][0].tolist() == [first] * first + (branched["visible_until"] + first).tolist()
    assert batch["position_ids"][0].tolist() == [*range(first), *branched["positions"].tolist()]
    assert {name: str(batch[name].dtype) for name in ("predictors", "visible_until", "position_ids", "sources", "text_only")} == {
        "predictors": "torch.int64",
        "visible_until": "torch.int32",
        "position_ids": "torch.int64",
        "sources": "torch.int32",
        "text_only": "torch.bool",
    }


def summed(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The weighted loss of a packed batch, from an explicit mask, by what predicts each token."""
    places = torch.arange(batch["input_ids"].shape[1])
    mask = (places[:, None] >= places) & (places[:, None] < batch["visible_until"][:, None])
    logits = model(input_ids=batch["input_ids"], attention_mask=mask[:, None], position_ids=batch["position_ids"], use_cache=False).logits
    predictors = batch.get("predictors", (places - 1).clamp(min=0).expand_as(batch["labels"]))
    predicted = logits.gather(1, predictors[..., None].expand_as(logits))
    keep = batch["labels"] != IGNORED
    losses = torch.nn.functional.cross_entropy(predicted[keep], batch["labels"][keep], reduction="none")
    return (losses * batch["loss_weights"][keep]).sum() if "loss_weights" in batch else losses.sum()


def test_joined_dialogues_give_loss_and_gradients_of_separate_ones(
    apart: MixedDataset, together: MixedDataset, tiny: tuple[Any, Any]
) -> None:
    model, processor = tiny
    collate = Collator(processor.tokenizer, pictures_of(processor), "packed")
    found = []
    for dataset in (apart, together):
        model.zero_grad()
        loss = summed(model, collate([[sample] for sample in every(dataset)]))
        loss.backward()
        found.append((loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}))
    model.zero_grad()
    (loss, gradients), (other, others) = found
    assert other.item() == pytest.approx(loss.item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-5 * gradient.abs().max() + 1e-6), name


@pytest.mark.parametrize("share_by", ["samples", "tokens"])
def test_a_share_of_text_is_met_with_joined_dialogues(tree: Path, processor: Any, tiny_data: Path, share_by: str) -> None:
    values = {
        "sources": [{"path": str(tree), "format": "tree"}, {"path": str(tiny_data), "max_records": 8}],
        "packing": {"length": LENGTH},
        "text_share": 0.25,
        "share_by": share_by,
    }
    config = DataConfig.model_validate(values)
    sources = join_trees(load_sources(config, processor.tokenizer, pictures_of(processor)), LENGTH)
    kinds = [one.source for one in sources]
    kinds[1] = replace(kinds[1], text_only=False)
    plan = make_plan(kinds, [one.tokens for one in sources], config, Amount(batch_size=4, steps=100), 0)
    inside = plan.order.positions[plan.members]
    amounts = [one.tokens if share_by == "tokens" else one.dialogues for one in sources]
    read = [float(amounts[number][inside[inside[:, 0] == number, 1]].sum()) for number in (0, 1)]
    assert read[0] / sum(read) == pytest.approx(0.25, abs=0.01)


def test_an_epoch_of_joined_dialogues_is_one_epoch(tree: Path, processor: Any) -> None:
    config, samples = load(tree, processor, max_epochs=1.0)
    (joined,) = join_trees([samples], LENGTH)
    plan = rows_of(config, joined).plan
    assert plan.epochs([len(joined)]) == (1.0,)
    assert np.sort(plan.order.positions[plan.members, 1]).tolist() == list(range(len(joined)))


def test_a_position_saved_with_joined_dialogues_is_refused_without(tree: Path, processor: Any) -> None:
    from data.position import Reading, check_position, position

    config, samples = load(tree, processor)
    found = []
    for sources in ([samples], join_trees([samples], LENGTH)):
        plan = rows_of(config, *sources).plan
        found.append(position(Reading(plan=plan, sources=sources, config=config, seed=0, processes=1), 1))
    check_position(found[1], found[1], "here")
    with pytest.raises(ValueError, match=r"data\.sources\.0\.samples was \d+, is 24"):
        check_position(found[1], found[0], "here")


def test_dialogues_follow_each_other_depth_first_though_some_end_early(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "tree", [2, 1, 2, 1, 1, 1], without={"1.0.0.0.0"})
    found = [one.id for one in stream(_source(path)) if isinstance(one, Conversation)]
    assert found == ["0.0.0.0.0.0", "0.0.1.0.0.0", "1.0.0.0", "1.0.1.0.0.0"]


def _source(path: Path) -> Any:
    from data.config import SourceConfig

    return SourceConfig(path=str(path), format="tree")


@pytest.mark.parametrize(("settings", "can", "joins"), [({}, True, True), ({"trees": False}, True, False), ({}, False, False)])
def test_dialogues_are_joined_where_the_recipe_and_the_attention_let_them(
    tree: Path, processor: Any, settings: dict[str, bool], can: bool, joins: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.config import make_recipe
    from train.rows import join_dialogues

    values = {"sources": [{"path": str(tree), "format": "tree"}], "packing": {"length": LENGTH, **settings}}
    recipe, (_, samples) = make_recipe({"data": values}), load(tree, processor)
    (found,) = join_dialogues([samples], recipe, can, progress=True)
    assert (len(found) < len(samples)) is joins
    told = capsys.readouterr().err
    sums = f"24 dialogues share prefixes: {found.tokens.sum():,} tokens instead of {samples.tokens.sum():,}"
    assert (sums in told) is joins
    assert ("this model's attention cannot tell branches" in told) is not can


def test_without_packing_nothing_is_joined_or_said(tree: Path, processor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from train.config import make_recipe
    from train.rows import join_dialogues

    recipe = make_recipe({"data": {"sources": [{"path": str(tree), "format": "tree"}]}})
    _, samples = load(tree, processor)
    assert join_dialogues([samples], recipe, can=True, progress=True) == [samples]
    assert capsys.readouterr().err == ""
