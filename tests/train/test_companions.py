"""WiSE-FT, LoRA scaling, LiNeS, logit mixing: what is written for a value."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from skills import write_suite

from model.build import load_pair
from model.identity import fingerprint
from model.tuning import choose_what_trains
from train import checkpoint, points
from train.cli import main
from train.config import make_recipe
from train.points import Line
from train.run import train
from train.sweep import model_key

KINDS: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "dora": {"rank": 4}, "adalora": {"rank": 4}, "ia3": {}}
Make = Callable[..., Path]


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Make:
    """Writes what was trained alone: adapters moved away from their start, a projector that trained whole beside them if asked for."""

    def tuned(kind: str | None, preset: str = "llm_blocks", seed: int = 1, **settings: Any) -> Path:
        section = {"base": str(tiny_folder), "preset": preset} | ({"adapter": {"kind": kind} | KINDS[kind] | settings} if kind else {})
        recipe = make_recipe({"model": section})
        model, processor = load_pair(tiny_folder)
        assert recipe.model is not None
        told = {"model": recipe.model.model_dump(mode="json"), "seed": 0, "fingerprint": fingerprint(model)}
        manifest, _ = choose_what_trains(model, recipe.model, steps=10, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        state = checkpoint.trainable_state(model, manifest, "fp32")
        folder = tmp_path / f"tuned-{kind}-{seed}"
        return checkpoint.save_trainable(model, processor, folder, dtype="fp32", state=state, base=told)

    return tuned


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    """A run folder whose last checkpoint is a whole model with its adapter, beside which the projector trained whole."""
    folder = tmp_path_factory.mktemp("run")
    values = {
        "model": {"base": str(tiny_folder), "preset": "sa_proj+projector", "adapter": {"kind": "lora", "rank": 4}},
        "data": {"sources": [{"path": str(make_data(folder / "data"))}]},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "steps": 3, "save_every": 2, "checkpoints": "trainable"},
        "output": str(folder / "run"),
    }
    return train(make_recipe(values), progress=False).folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_pair(folder)[0].state_dict()
    return found


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_pair(folder)[0](input_ids=torch.arange(5, 25).reshape(2, 10)).logits
    return found


def far(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def lerp(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    return {name: torch.lerp(one[name], other[name], alpha) for name in one}


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_wise_ft_of_what_was_trained_alone_lies_between_base_and_tuned_weights(
    make: Make, tiny_folder: Path, tmp_path: Path, kind: str | None
) -> None:
    tuned = make(kind, "sa_proj+projector")
    line = points.wise_ft(str(tuned), None, tmp_path / "work")
    assert far(state(line.write(0.3, tmp_path / "out")), lerp(state(tiny_folder), state(tuned), 0.3)) < 1e-6


@pytest.mark.parametrize(("alpha", "end"), [(0.0, "base"), (1.0, "tuned")])
@pytest.mark.parametrize("kind", [*KINDS, None])
def test_the_ends_of_wise_ft_are_base_and_tuned_model_to_the_bit(
    make: Make, tiny_folder: Path, tmp_path: Path, kind: str | None, alpha: float, end: str
) -> None:
    tuned = make(kind, "sa_proj+projector")
    line = points.wise_ft(str(tuned), None, tmp_path / "work")
    expected = state(tuned if end == "tuned" else tiny_folder)
    assert line.ends[alpha] == end
    assert all(torch.equal(one, expected[name]) for name, one in state(line.write(alpha, tmp_path / "out")).items())


def test_what_was_trained_alone_stays_a_small_folder(make: Make, tmp_path: Path) -> None:
    found = points.wise_ft(str(make("lora", "sa_proj+projector")), None, tmp_path / "work").write(0.5, tmp_path / "out")
    assert {path.name for path in found.iterdir()} >= {"base.json", "adapter", "trainable.safetensors", "config.json", "tokenizer.json"}
    assert not (found / "model.safetensors").exists()


def test_wise_ft_of_a_run_interpolates_its_merged_checkpoint(run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    found = points.wise_ft(str(run), None, tmp_path / "work").write(0.3, tmp_path / "out")
    assert far(state(found), lerp(state(tiny_folder), state(run / "checkpoints" / "step-3"), 0.3)) < 1e-6
    assert (found / "model.safetensors").is_file()


def test_wise_ft_between_two_adapters_joins_their_ranks(make: Make, tmp_path: Path) -> None:
    first, second = make("lora", seed=1), make("lora", seed=2, rank=3)
    line = points.wise_ft(str(second), str(first / "adapter"), tmp_path / "work")
    found = line.write(0.3, tmp_path / "out")
    assert far(state(found), lerp(state(first), state(second), 0.3)) < 1e-6
    assert json.loads((found / "base.json").read_text())["model"]["adapter"]["rank"] == 7
    assert far(state(line.base), state(first)) == 0


def test_adapters_of_other_bases_are_not_joined(make: Make, tmp_path: Path) -> None:
    first, second = make("lora", seed=1), make("lora", seed=2)
    told = json.loads((first / "base.json").read_text())
    (first / "base.json").write_text(json.dumps(told | {"fingerprint": "0" * 64}))
    with pytest.raises(ValueError, match=r"adapter was trained from another base than .*give the merged models"):
        points.wise_ft(str(second), str(first / "adapter"), tmp_path / "work")


@pytest.mark.parametrize("kind", ["lora", "dora", None])
def test_lines_scales_each_layers_update(make: Make, tiny_folder: Path, tmp_path: Path, kind: str | None) -> None:
    tuned = make(kind, "llm_blocks+projector")
    before, after = state(tiny_folder), state(tuned)
    found = state(points.lines_of(str(tuned), None, tmp_path / "work", 0.8).write(0.2, tmp_path / "out"))
    layer = "model.language_model.layers.{}.mlp.up_proj.weight"
    factors = {layer.format(0): 0.2, layer.format(1): 0.8, "model.multi_modal_projector.linear_1.weight": 0.2}
    for name, factor in factors.items():
        assert (after[name] - before[name]).abs().max() > 1e-3
        assert torch.allclose(found[name] - before[name], factor * (after[name] - before[name]), atol=1e-6)


def test_lora_scale_of_a_run_leaves_what_trained_whole_as_tuned(run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    before, after = state(tiny_folder), state(run / "checkpoints" / "step-3")
    found = state(points.lora_scale(str(run), None, tmp_path / "work").write(0.0, tmp_path / "out"))
    projector = {name for name in before if "multi_modal_projector" in name}
    assert all(torch.equal(found[name], (after if name in projector else before)[name]) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in projector)


@pytest.mark.parametrize("against", [True, False])
def test_lora_scale_at_1_is_the_tuned_model(run: Path, tiny_folder: Path, tmp_path: Path, against: bool) -> None:
    line = points.lora_scale(str(run), str(tiny_folder) if against else None, tmp_path / "work")
    assert far(state(line.write(1.0, tmp_path / "out")), state(run / "checkpoints" / "step-3")) < 1e-6


def test_a_logit_mix_is_a_siamese_folder_with_a_fixed_gate(make: Make, tmp_path: Path) -> None:
    tuned = make("ia3", "sa_proj")
    found = points.mix_logits(str(tuned), None, tmp_path / "work").write(0.3, tmp_path / "out")
    told, before = (json.loads((folder / "base.json").read_text()) for folder in (found, tuned))
    assert told["model"] == before["model"] | {"method": "siamese", "gate": {"kind": "fixed", "share": 0.3}}
    assert {name: told[name] for name in ("seed", "fingerprint")} == {name: before[name] for name in ("seed", "fingerprint")}
    name = "adapter/adapter_model.safetensors"
    assert all(torch.equal(one, load_file(tuned / name)[key]) for key, one in load_file(found / name).items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_logit_mix_is_the_mean_of_the_logits_of_base_and_tuned_model(make: Make, tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    tuned = make(kind, "sa_proj")
    line = points.mix_logits(str(tuned), None, tmp_path / "work")
    base, whole, mix = (logits(folder) for folder in (tiny_folder, tuned, line.write(0.3, tmp_path / "out")))
    assert (base - whole).abs().max() > 0.01
    assert torch.allclose(mix, 0.3 * base + 0.7 * whole, atol=1e-5)


def test_a_merged_checkpoint_of_which_only_the_base_is_known_mixes_as_well(make: Make, tiny_folder: Path, tmp_path: Path) -> None:
    tuned = make("adalora", "sa_proj[-1]")
    merged = tmp_path / "merged"
    checkpoint.save(*load_pair(tuned), merged, dtype="fp32")
    shutil.copytree(tuned / "adapter", merged / "adapter")
    found = points.mix_logits(str(merged), str(tiny_folder), tmp_path / "work").write(0.3, tmp_path / "out")
    assert torch.allclose(logits(found), 0.3 * logits(tiny_folder) + 0.7 * logits(tuned), atol=1e-5)


def test_a_mix_of_models_that_differ_beside_the_adapter_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 tensors trained whole beside the adapter, such as model\.multi_modal_projector"):
        points.mix_logits(str(run), None, tmp_path / "work").write(0.3, tmp_path / "out")


def test_a_siamese_model_is_no_point_of_a_line(make: Make, tmp_path: Path) -> None:
    mixed = points.mix_logits(str(make("lora", "sa_proj")), None, tmp_path / "work").write(0.3, tmp_path / "out")
    with pytest.raises(ValueError, match="is a siamese model, base and adapter at once; give a run with an adapter and method: plain"):
        points.wise_ft(str(mixed), None, tmp_path / "work")


def test_a_model_whose_base_nobody_knows_asks_for_it(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not tell which model it was tuned from .*; give --against BASE"):
        points.wise_ft(str(tiny_folder), None, tmp_path / "work")


def test_a_base_that_has_moved_asks_for_its_new_place(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["base"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FileNotFoundError, match=r"the base of .*step-3: model folder .*gone does not exist.*--against"):
        points.wise_ft(str(tmp_path / "run"), None, tmp_path / "work")


@pytest.mark.parametrize("command", [points.lora_scale, points.mix_logits])
def test_a_model_without_an_adapter_is_refused_where_adapters_are_scaled(
    make: Make, tmp_path: Path, command: Callable[[str, str | None, Path], Line]
) -> None:
    with pytest.raises(ValueError, match="holds no adapter; this command scales adapters, wise-ft and lines take models of every kind"):
        command(str(make(None, "sa_proj")), None, tmp_path / "work")


def test_a_run_that_assembled_its_model_has_that_as_its_base(make: Make, tiny_folder: Path, tmp_path: Path) -> None:
    tuned = make("lora", "sa_proj")
    told = json.loads((tuned / "base.json").read_text())
    told["model"] |= {"base": None, "vision": str(tiny_folder), "language": str(tiny_folder)}
    (tuned / "base.json").write_text(json.dumps(told))
    line = points.lora_scale(str(tuned), None, tmp_path / "work")
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    assert torch.equal(state(line.base)[name], state(tiny_folder)[name])


def test_a_models_key_depends_on_every_file_of_its_weights(make: Make) -> None:
    folder = make("lora", "sa_proj+projector")
    keys = {model_key(folder)}
    for name in ("adapter/adapter_model.safetensors", "trainable.safetensors"):
        values = load_file(folder / name)
        save_file({key: one + 1 for key, one in values.items()}, folder / name)
        keys.add(model_key(folder))
    (folder / "base.json").write_text("{}")
    assert len(keys | {model_key(folder)}) == 4


# --- the commands ----------------------------------------------------------------------------------------------------


def call(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_the_terrarium_is_swept_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data.terrarium.base import BASE

    tuned = tmp_path / "tuned"
    shutil.copytree(BASE, tuned, ignore=shutil.ignore_patterns("language", "aligned"))
    values, generator = load_file(tuned / "model.safetensors"), torch.Generator().manual_seed(1)
    moved = {name: one + (0.2 * torch.randn(one.shape, generator=generator)).to(one.dtype) for name, one in values.items()}
    save_file(moved, tuned / "model.safetensors", metadata={"format": "pt"})
    suite = write_suite(tmp_path / "suite")
    out = tmp_path / "out"
    line = ("wise-ft", tuned, "--against", "terrarium", "--suite", suite, "--alpha", "0,0.1", "--limit", "2", "--output", out, "--quiet")
    assert call(*line) == 0
    printed = capsys.readouterr().out
    assert "| 0.1 |" in printed and "sweep.png" in printed
    assert [one["name"] for one in json.loads((out / "sweep.json").read_text())["points"]] == ["base", "alpha-0", "alpha-0.1", "tuned"]
    assert not (out / ".work").exists()


@pytest.mark.parametrize("command", ["wise-ft", "lora-scale", "lines"])
def test_one_model_is_written_without_asking(make: Make, tmp_path: Path, command: str) -> None:
    tuned = make("lora", "sa_proj")
    assert call(command, tuned, "--write", "0.5", "--output", tmp_path / "out") == 0
    base, half, whole = (state(folder) for folder in (json_base(tuned), tmp_path / "out", tuned))
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(half[name] - base[name], 0.5 * (whole[name] - base[name]), atol=1e-6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def json_base(folder: Path) -> Path:
    return Path(json.loads((folder / "base.json").read_text())["model"]["base"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wise-ft RUN", "--suite is missing: give --suite FILE to ask every point, or --write VALUE --output DIR"),
        ("wise-ft RUN --write 0.5", "--output is missing: --write VALUE writes one model folder"),
        ("wise-ft RUN --write 0.5 --output OUT --suite s.yaml", "--suite has no effect with --write"),
        ("wise-ft RUN --write 1.5 --output OUT", "alpha: got 1.5, expected numbers from 0 to 1"),
        ("mix-logits RUN --share 0,2 --suite s.yaml", "share: got 2, expected numbers from 0 to 1"),
        ("lines RUN --suite nowhere.yaml", "suite nowhere.yaml does not exist"),
        ("lora-scale nowhere --write 1 --output OUT", "checkpoint nowhere: nowhere does not exist"),
    ],
)
def test_a_wrong_request_is_one_message_with_exit_code_2(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    words = {"RUN": str(make("lora", "sa_proj")), "OUT": str(tmp_path / "out")}
    assert main([words.get(word, word) for word in line.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
