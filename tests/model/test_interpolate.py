"""WiSE-FT: points between two checkpoints, exact where they must be."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.build import load_pair
from model.interpolate import holds_exactly, interpolate, mixed, scale_update

NAME = "language_model.model.layers.0.self_attn.q_proj.weight"
FROZEN = "language_model.model.layers.1.mlp.up_proj.weight"

Change = Callable[[dict[str, torch.Tensor]], object]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def changed(folder: Path, target: Path, change: Change) -> Path:
    """A copy of a model folder with other tensors."""
    shutil.copytree(folder, target)
    values = weights(folder)
    change(values)
    save_file(values, target / "model.safetensors", metadata={"format": "pt"})
    return target


def tune(values: dict[str, torch.Tensor]) -> None:
    values[NAME] = values[NAME] + torch.randn(values[NAME].shape, generator=torch.Generator().manual_seed(1))


def to_bf16(values: dict[str, torch.Tensor]) -> None:
    values.update({name: one.bfloat16() for name, one in values.items()})


def split(folder: Path) -> None:
    """Parts a folder's one file of weights into two, as large models are saved."""
    values = weights(folder)
    names = sorted(values)
    files = {name: f"model-0000{1 + (at >= len(names) // 3)}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: values[name] for name in names if files[name] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": files}))
    (folder / "model.safetensors").unlink()


@pytest.fixture
def tuned(tiny_folder: Path, tmp_path: Path) -> Path:
    return changed(tiny_folder, tmp_path / "tuned", tune)


def test_the_share_is_that_of_the_tuned_model(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    found = weights(interpolate(tiny_folder, tuned, 0.9, tmp_path / "out"))[NAME]
    assert torch.allclose(found, 0.1 * weights(tiny_folder)[NAME] + 0.9 * weights(tuned)[NAME], atol=1e-6)


@pytest.mark.parametrize(("alpha", "end"), [(0.0, "before"), (1.0, "after")])
def test_an_endpoint_is_bit_identical(tiny_folder: Path, tuned: Path, tmp_path: Path, alpha: float, end: str) -> None:
    found = weights(interpolate(tiny_folder, tuned, alpha, tmp_path / "out"))
    expected = weights(tiny_folder if end == "before" else tuned)
    assert all(torch.equal(found[name].view(torch.int32), expected[name].view(torch.int32)) for name in expected)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
def test_frozen_tensors_stay_bit_identical(tiny_folder: Path, tuned: Path, tmp_path: Path, alpha: float) -> None:
    found, before = weights(interpolate(tiny_folder, tuned, alpha, tmp_path / "out")), weights(tiny_folder)
    assert all(torch.equal(found[name], before[name]) for name in before if name != NAME)


def test_what_is_stored_in_bf16_is_computed_in_float32() -> None:
    before, after = (torch.randn(4096, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (0, 1))
    exact = (0.1 * before.double() + 0.9 * after.double()).float()
    found = mixed(before, after, 0.9)
    assert found.dtype == torch.bfloat16
    assert ((found.float() - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()  # one rounding, at the end


@pytest.mark.parametrize(("alpha", "after"), [(0.0, 1.0), (0.1, -0.0)], ids=["endpoint", "frozen"])
def test_a_negative_zero_keeps_its_sign(alpha: float, after: float) -> None:
    found = mixed(torch.tensor([-0.0]), torch.tensor([after]), alpha)
    assert torch.signbit(found).all()  # arithmetic alone would give +0.0


def test_files_keep_their_dtype(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    stored = changed(tuned, tmp_path / "stored", to_bf16)
    found = weights(interpolate(tiny_folder, stored, 0.5, tmp_path / "out"))
    assert {one.dtype for one in found.values()} == {torch.bfloat16}


def test_a_base_stored_in_bf16_leaves_frozen_tensors_of_a_float32_checkpoint_as_they_are(
    tuned: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    base = changed(tiny_folder, tmp_path / "base", to_bf16)
    after = changed(base, tmp_path / "after", lambda values: values.update({name: one.float() for name, one in values.items()}))
    found = weights(interpolate(base, after, 0.3, tmp_path / "out"))
    assert all(torch.equal(found[name], one) for name, one in weights(after).items())


def test_shards_may_be_cut_differently(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    whole = weights(interpolate(tiny_folder, tuned, 0.5, tmp_path / "whole"))
    split(tuned)
    found = interpolate(tiny_folder, tuned, 0.5, tmp_path / "shards")
    assert sorted(path.name for path in found.glob("*.safetensors")) == sorted(path.name for path in tuned.glob("*.safetensors"))
    assert all(torch.equal(weights(found)[name], one) for name, one in whole.items())


def test_one_shard_is_in_memory_at_a_time(tiny_folder: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    split(tuned)
    made, alive, write = [], [], safetensors.torch.save_file

    def counted(*arguments: torch.Tensor | float) -> torch.Tensor:
        found = mixed(*arguments)
        made.append(weakref.ref(found))
        return found

    def watched(values: dict[str, torch.Tensor], path: Path, **options: object) -> None:
        alive.append((sum(one() is not None for one in made), len(values)))
        write(values, path, **options)

    monkeypatch.setattr("model.interpolate.mixed", counted)
    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    interpolate(tiny_folder, tuned, 0.5, tmp_path / "out")
    assert len(alive) == 2 and all(living == own for living, own in alive)


def test_each_tensor_has_a_factor_of_its_own(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    other = changed(tuned, tmp_path / "other", lambda values: values.update({FROZEN: values[FROZEN] + 1}))
    factor_of = {NAME: 1.5, FROZEN: 0.25}
    found = weights(scale_update(tiny_folder, other, lambda name: factor_of.get(name, 1.0), tmp_path / "out"))
    before, after = weights(tiny_folder), weights(other)
    assert all(
        torch.allclose(found[name], before[name] + value * (after[name] - before[name]), atol=1e-6) for name, value in factor_of.items()
    )


@pytest.mark.parametrize(("coarse", "exact"), [("base", True), ("tuned", False), (None, True)])
def test_a_model_stored_in_a_coarser_dtype_cannot_be_its_base_itself(
    tiny_folder: Path, tuned: Path, tmp_path: Path, coarse: str | None, exact: bool
) -> None:
    folders = {"base": tiny_folder, "tuned": tuned}
    if coarse is not None:
        folders[coarse] = changed(folders[coarse], tmp_path / "coarse", to_bf16)
    assert holds_exactly(folders["tuned"], folders["base"]) is exact


def test_the_result_loads_as_a_model_with_its_processor(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    split(tuned)
    model, processor = load_pair(interpolate(tiny_folder, tuned, 0.5, tmp_path / "out"))
    assert torch.equal(model.state_dict()["lm_head.weight"], weights(tiny_folder)["language_model.lm_head.weight"])
    assert processor.tokenizer.chat_template


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop(FROZEN), rf"{FROZEN} only in .*tuned"),
        (lambda values: values.update(extra=torch.zeros(1)), r"extra only in .*other"),
        (lambda values: values.update({FROZEN: torch.zeros(3, 2)}), rf"{FROZEN} is \[3, 2\] in .*other, \[64, 32\] in .*tuned"),
    ],
)
def test_other_tensors_are_named(tiny_folder: Path, tuned: Path, tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(changed(tiny_folder, tmp_path / "other", change), tuned, 0.5, tmp_path / "out")


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(tiny_folder: Path, tuned: Path, tmp_path: Path, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha: got .* expected a share of the tuned model"):
        interpolate(tiny_folder, tuned, alpha, tmp_path / "out")


def test_a_failure_leaves_nothing(tiny_folder: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(tuned)
    monkeypatch.setattr("model.interpolate.shutil.copyfile", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        interpolate(tiny_folder, tuned, 0.5, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_a_folder_that_exists_is_left_alone(tiny_folder: Path, tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists; remove it, or give another folder"):
        interpolate(tiny_folder, tuned, 0.5, tmp_path / "out")
