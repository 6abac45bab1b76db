"""A siamese model made plain: the recipe, the run, what both are asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from skills import make_world
from stopping import broken_at
from transformers import AutoModelForImageTextToText

import train.student as module
from model.build import load_pair
from model.siamese import of
from train.cli import main
from train.config import Recipe, make_recipe
from train.evaluate.tasks import Suite, load_suite
from train.run import train
from train.student import Distillation, Distilled, distil
from train.student_recipe import find_siamese, plan, student

STEPS = 6
ONE_STEP = ("--train.steps", "1")
Calls = list[tuple[Path, str | None]]  # folder, who of a siamese model in it
TEXT = ("What is 3 plus two?", "3 plus two is 5.")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_data: Callable[..., Path]) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), make_data)


@pytest.fixture(scope="module")
def siamese(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, make_data: Callable[..., Path]) -> Path:
    """Folder of a siamese model in its run, which learned all its records in every step."""
    data = make_data(tmp_path_factory.mktemp("data"))
    values = {
        "model": {"base": str(tiny_folder), "preset": "llm_blocks", "adapter": {"kind": "lora", "rank": 8}, "method": "siamese"},
        "data": {"sources": [{"path": str(data)}]},
        "train": {
            **{"learning_rate": 2e-2, "batch_size": 16, "steps": STEPS, "warmup_share": 0.0, "schedule": "constant", "save_every": 2},
            "parts": {"gate": {"learning_rate": 1e-3}},  # its shares stay near one half
        },
        "output": str(tmp_path_factory.mktemp("siamese") / "run"),
    }
    return train(make_recipe(values), progress=False).checkpoint


@pytest.fixture(scope="module")
def distilled(siamese: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(siamese, tmp_path_factory.mktemp("distilled") / "out").checkpoint


def run(siamese: Path, output: Path, *overrides: str, suite: Suite | None = None, **options: Any) -> Distilled:
    asked = Distillation(siamese=siamese, recipe=plan(siamese, output, overrides=overrides), suite=suite)
    return distil(asked, progress=False, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def first_loss(siamese: Path, output: Path, gate: dict[str, Any] | None) -> float:
    """What a fresh student lacks; with another gate in the teacher, if one is given."""
    recipe = siamese.parent.parent / "config.yaml"
    teacher = output.parent / f"teacher-{output.name}"
    shutil.copytree(siamese, teacher)
    if gate is not None:
        told = json.loads((teacher / "base.json").read_text())
        told["model"]["gate"] = gate
        (teacher / "base.json").write_text(json.dumps(told))
    derived = plan(teacher, output, recipe=str(recipe), overrides=["--train.steps", "1"])
    distil(Distillation(siamese=teacher, recipe=derived), progress=False)
    found: float = lines(output / "run")[0]["loss"]
    return found


SETTINGS = make_recipe(
    {
        "model": {"base": "terrarium", "adapter": {"kind": "ia3"}, "method": "siamese"},
        "data": {"sources": [{"path": "a.json", "share": 0.5}, {"path": "b", "format": "tree", "trains": "gate", "loss_on": "all"}]},
        "train": {
            **{"learning_rate": 1e-3, "batch_size": 8, "steps": 7, "seed": 3, "resume": "always", "losses": [{"kind": "eaft"}]},
            "parts": {"gate": {"learning_rate": 1e-2}, "llm": {"weight_decay": 0.1}},
        },
        "output": "runs/s",
    },
    check_files=False,
)
TOLD: dict[str, Any] = {
    "model": {
        **{"base": "/models/base", "preset": "llm_blocks", "method": "siamese", "gate": {"kind": "scalar"}, "attention": "eager"},
        "adapter": {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1, "initial_rank": None},
    },
    "seed": 5,
    "fingerprint": "f",
}


def derived(kind: str | None = None) -> Recipe:
    return make_recipe(student(TOLD, SETTINGS, Path("/s"), Path("out"), kind=kind), check_files=False)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("model.base", "/models/base"),
        ("model.method", "plain"),
        ("model.gate", None),
        ("model.preset", "llm_blocks"),
        ("model.attention", "eager"),
        ("model.adapter.rank", 4),
        ("model.adapter.alpha", 8.0),
        ("train.learning_rate", 1e-3),
        ("train.batch_size", 8),
        ("train.steps", 7),
        ("train.seed", 5),
        ("train.stage", "distil"),
        ("train.resume", "if_possible"),
        ("train.parts.gate.learning_rate", None),
        ("train.parts.llm.weight_decay", 0.1),
        ("output", "out/run"),
    ],
)
def test_the_recipe_is_that_of_the_siamese_without_its_gate(place: str, expected: Any) -> None:
    found: Any = derived()
    for name in place.split("."):
        found = getattr(found, name)
    assert found == expected


def test_the_only_loss_is_the_siamese_models_prediction_of_every_token() -> None:
    (loss,) = derived().train.losses
    assert (loss.kind, loss.on, loss.temperature, loss.teacher, loss.weight) == ("lwf", "all", 1.0, "/s", 1.0)


def test_sources_that_trained_the_gate_alone_teach_the_student() -> None:
    sources = derived().data.sources  # type: ignore[union-attr]
    assert [one.trains for one in sources] == ["all", "all"]
    assert [(one.share, one.format, one.loss_on) for one in sources] == [(0.5, "llava", "assistant"), (None, "tree", "all")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("lora", {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1}),
        ("dora", {"kind": "dora", "rank": 4, "alpha": 8.0, "dropout": 0.1}),
        ("adalora", {"kind": "adalora", "rank": 4, "alpha": 8.0, "dropout": 0.1}),
        ("ia3", {"kind": "ia3"}),
    ],
)
def test_another_kind_of_adapter_keeps_the_sizes_that_it_knows(kind: str, expected: dict[str, Any]) -> None:
    adapter = derived(kind).model.adapter  # type: ignore[union-attr]
    assert adapter is not None
    assert adapter == type(adapter)(**expected)


def test_without_an_adapter_the_presets_own_weights_train() -> None:
    assert derived("none").model.adapter is None  # type: ignore[union-attr]


def test_plain_transformers_load_the_result_and_peft_its_adapter(distilled: Path, tiny_folder: Path) -> None:
    from peft import PeftModel

    whole = AutoModelForImageTextToText.from_pretrained(distilled).eval()
    adapted = PeftModel.from_pretrained(load_pair(tiny_folder)[0], distilled / "adapter").eval()
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        assert torch.allclose(adapted(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-4)


def divergence(siamese: Path, folder: Path) -> float:
    """Mean KL(siamese || model) over the tokens of an answer, from the models' own logits."""
    (teacher, processor), (model, _) = load_pair(siamese), load_pair(folder)
    tokenizer = processor.tokenizer
    ask = tokenizer.apply_chat_template([{"role": "user", "content": TEXT[0]}], add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([[*ask, *tokenizer(TEXT[1], add_special_tokens=False).input_ids]])
    prompt = torch.arange(ids.shape[1])[None] < len(ask)
    with torch.no_grad(), of(teacher).told(prompt):  # type: ignore[union-attr]
        wanted = teacher(input_ids=ids, use_cache=False).logits[0, len(ask) - 1 :].log_softmax(dim=-1)
        found = model(input_ids=ids).logits[0, len(ask) - 1 :].log_softmax(dim=-1)
    return float((wanted.exp() * (wanted - found)).sum(dim=-1).mean())


def test_the_student_comes_near_the_siamese_model(siamese: Path, distilled: Path, tiny_folder: Path) -> None:
    assert divergence(siamese, distilled) < 0.4 * divergence(siamese, tiny_folder)


def test_the_loss_falls(distilled: Path) -> None:
    losses = [line["loss"] for line in lines(distilled.parent.parent)]
    assert losses[-1] < 0.4 * losses[0]


def test_the_teacher_is_base_and_twin_behind_their_gate(siamese: Path, tmp_path: Path) -> None:
    found = {
        "gated": first_loss(siamese, tmp_path / "gated", None),
        "base": first_loss(siamese, tmp_path / "base", {"kind": "fixed", "share": 1.0}),
        "twin": first_loss(siamese, tmp_path / "twin", {"kind": "fixed", "share": 0.0}),
    }
    assert found["base"] == pytest.approx(0, abs=1e-5)  # a fresh student is the base
    assert found["gated"] > 1e-3
    assert found["twin"] > 2 * found["gated"]  # which is half way between the two


def test_an_interrupted_student_goes_on(siamese: Path, distilled: Path, tmp_path: Path) -> None:
    with broken_at(3):
        run(siamese, tmp_path / "out")
    run(siamese, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run" / "run.json").read_text())
    assert record["resumed_from"] == 2
    assert [one["loss"] for one in lines(tmp_path / "out" / "run")] == [one["loss"] for one in lines(distilled.parent.parent)]


def asked_of(calls: Calls) -> module.Ask:
    """Evaluations that tell models apart: each is right more often than the one before."""

    def ask(folder: Path, alone: Any, suite: Suite) -> dict[str, Any]:
        calls.append((folder, alone))
        tasks = {}
        for task in suite.tasks:
            answers = [
                {"id": str(at), "answer": "x", "correct": at < len(calls) % 3, "question": "", "expected": "", "image": None}
                for at in range(len(task.questions))
            ]
            right = sum(one["correct"] for one in answers)
            tasks[task.name] = {"group": task.group, "n": len(answers), "accuracy": right / len(answers), "answers": answers}
        return {"suite": suite.name, "tasks": tasks, "groups": {}, "number_token_probability": None, "seconds": 0.0}

    return ask


@pytest.fixture(scope="module")
def suite(world: Path) -> Suite:
    return load_suite(world / "suite.yaml")


@pytest.fixture(scope="module")
def compared(siamese: Path, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calls]:
    """The output of a student of one step, which was compared; who was asked."""
    calls: Calls = []
    output = tmp_path_factory.mktemp("compared") / "out"
    run(siamese, output, *ONE_STEP, suite=suite, ask=asked_of(calls))
    return output, calls


@pytest.fixture
def output(compared: tuple[Path, Calls], tmp_path: Path) -> Path:
    """A copy of that output."""
    return Path(shutil.copytree(compared[0], tmp_path / "out"))


def test_base_siamese_twin_and_student_are_asked(siamese: Path, compared: tuple[Path, Calls]) -> None:
    student = compared[0] / "run" / "checkpoints" / "step-1"
    assert compared[1] == [(siamese, "base"), (siamese, None), (siamese, "tuned"), (student, None)]


def test_what_is_finished_is_not_done_again(siamese: Path, suite: Suite, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train", refuse)
    (output / "evaluations" / suite.name / "twin" / "evaluation.json").unlink()
    calls: Calls = []
    run(siamese, output, *ONE_STEP, suite=suite, ask=asked_of(calls))
    assert calls == [(siamese, "tuned")]


def test_an_evaluation_of_fewer_questions_does_not_count(siamese: Path, suite: Suite, output: Path) -> None:
    calls: Calls = []
    asked = Distillation(siamese=siamese, recipe=plan(siamese, output, overrides=ONE_STEP), suite=suite, limit=1)
    distil(asked, progress=False, ask=asked_of(calls))
    assert len(calls) == 4


def test_an_evaluation_of_another_student_does_not_count(siamese: Path, suite: Suite, output: Path) -> None:
    calls: Calls = []
    found = run(siamese, output, "--train.steps", "2", suite=suite, ask=asked_of(calls), overwrite=True)
    assert calls == [(found.checkpoint, None)]


def test_a_student_with_other_settings_is_not_taken_for_this_one(siamese: Path, output: Path) -> None:
    with pytest.raises(ValueError, match=r"was begun with other settings: train\.steps was 1, is 2\. Give .* --overwrite"):
        run(siamese, output, "--train.steps", "2")


def test_a_setting_without_effect_on_the_steps_may_change(siamese: Path, output: Path) -> None:
    assert run(siamese, output, *ONE_STEP, "--train.keep_states", "1").checkpoint.name == "step-1"


def test_a_student_of_another_teacher_is_not_taken_for_this_one(siamese: Path, tmp_path: Path) -> None:
    shutil.copytree(siamese.parent.parent, tmp_path / "siamese")
    teacher = tmp_path / "siamese" / "checkpoints" / siamese.name
    run(teacher, tmp_path / "out", *ONE_STEP)
    shutil.copy(siamese.parent / "step-2" / "siamese.safetensors", teacher)
    with pytest.raises(ValueError, match="begun with other settings: the siamese model is another"):
        run(teacher, tmp_path / "out", *ONE_STEP)


def test_the_command_asks_for_real_and_writes_the_cost(
    siamese: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(siamese.parent.parent), "--output", str(tmp_path / "out"), "--suite", str(world / "suite.yaml"), "--target", "red"]
    assert main(["distil", *words, "--limit", "1", "--train.steps", "1", "--quiet"]) == 0
    found = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert [one["name"] for one in found["models"]] == ["base", "siamese", "twin", "distilled"]
    assert found["models"][3]["questions"] == 3  # red, facts, colour
    printed = capsys.readouterr().out
    assert found["sentence"] in printed
    assert (tmp_path / "out" / "cost.md").read_text() == printed


def test_the_twin_alone_answers_without_its_gate(siamese: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluate(model: Any, *_: Any, **__: Any) -> dict[str, Any]:
        seen.append(of(model).fork.alone if of(model) is not None else "plain")  # type: ignore[union-attr]
        return {}

    monkeypatch.setattr("train.evaluate.evaluation.evaluate", evaluate)
    ask = module.asker(plan(siamese, tmp_path / "out"), progress=False)
    for alone in ("base", None, "tuned"):
        ask(siamese, alone, load_suite(world / "suite.yaml"))  # type: ignore[arg-type]
    assert seen == ["base", None, "tuned"]


def test_a_plain_model_is_refused_with_what_loads_it(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="holds a whole model, which plain transformers loads already.* expected a siamese model"):
        find_siamese(str(tiny_folder))


def test_a_plain_adapter_is_refused_with_what_loads_it(siamese: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(siamese, tmp_path / "adapter"))
    told = json.loads((folder / "base.json").read_text())
    told["model"] |= {"method": "plain", "gate": None}
    (folder / "base.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"holds an adapter, which PEFT loads already from .*adapter/adapter"):
        find_siamese(str(folder))


def test_a_folder_outside_of_a_run_needs_a_recipe(siamese: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(siamese, tmp_path / "alone"))
    with pytest.raises(ValueError, match="lies in no run folder .* --recipe FILE"):
        plan(folder, tmp_path / "out")


def test_a_base_that_is_gone_is_told_before_training(siamese: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(siamese.parent.parent, tmp_path / "run")) / "checkpoints" / siamese.name
    told = json.loads((folder / "base.json").read_text())
    told["model"]["base"] = str(tmp_path / "gone")
    (folder / "base.json").write_text(json.dumps(told))
    with pytest.raises(FileNotFoundError, match=r"base\.json: model\.base: .*gone does not exist"):
        plan(folder, tmp_path / "out")


def test_data_that_were_moved_are_found_where_an_override_says(siamese: Path, tmp_path: Path, tiny_data: Path) -> None:
    folder = Path(shutil.copytree(siamese.parent.parent, tmp_path / "run")) / "checkpoints" / siamese.name
    config = folder.parent.parent / "config.yaml"
    config.write_text(config.read_text().replace("records.json", "gone.json"))
    found = plan(folder, tmp_path / "out", overrides=[f"--data.sources.0.path={tiny_data}"])
    assert found.data is not None
    assert found.data.sources[0].path == str(tiny_data)


@pytest.mark.parametrize("override", ["--model.base=terrarium", "--output=elsewhere"])
def test_an_override_that_gives_the_student_another_beginning_is_refused(siamese: Path, tmp_path: Path, override: str) -> None:
    with pytest.raises(ValueError, match=rf"{override[2:].partition('=')[0]}.*: the student is a plain model that begins where"):
        plan(siamese, tmp_path / "out", overrides=[override])


def test_options_of_the_suite_have_no_effect_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distil", "terrarium", "--output", str(tmp_path), "--limit", "3"]) == 2
    assert "--limit has no effect without --suite" in capsys.readouterr().err


def test_a_target_that_is_not_in_the_suite_is_refused(siamese: Path, world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no task 'reed'; its tasks: red, green"):
        Distillation(siamese=siamese, recipe=plan(siamese, tmp_path), suite=load_suite(world / "suite.yaml"), target="reed")
