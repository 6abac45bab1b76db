"""Continued pre-training on plain text (TG-PT)."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.trees.export import paths, write
from data.trees.nodes import Node
from train.config import load_recipe, make_recipe
from train.run import RunResult, train

ROUNDS = ("What is {} plus two?", "{} plus two is a number.", "Where does the Murlo live?", "The Murlo lives in cave {}.")


def dialogues() -> list[list[Node]]:
    """Sixteen of two rounds; each four share the first."""
    nodes = []
    for number in range(16):
        names = [f"{number // 4}", f"{number // 4}.0", f"{number // 4}.0.{number}", f"{number // 4}.0.{number}.0"]
        for layer, name in enumerate(names):
            nodes.append(
                Node(
                    id=name,
                    parent=name.rpartition(".")[0] or None,
                    layer=layer,
                    role="assistant" if layer % 2 else "user",
                    text=ROUNDS[layer].format(number if layer > 1 else number // 4),
                    tokens=1,
                    seed=0,
                    logprob=None,
                    finish_reason="stop",
                )
            )
    return list(paths(list({node.id: node for node in nodes}.values())))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(["text"], dialogues(), tmp_path_factory.mktemp("tree"))["text"]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A tiny language model alone, whose tokenizer has no chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = None
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **{name: getattr(tokenizer, name) for name in names})
    folder = tmp_path_factory.mktemp("language")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, language: Path, corpus: Path) -> Callable[..., RunResult]:
    def start(reading: dict[str, Any] | None = None, **settings: Any) -> RunResult:
        values = {
            "model": {"base": str(language), "preset": "llm"},
            "data": {"sources": [{"path": str(corpus), "format": "text"}], **(reading or {})},
            "train": {"learning_rate": 1e-2, "batch_size": 8, "steps": 12, "schedule": "constant", "warmup_share": 0.0, **settings},
            "output": str(tmp_path_factory.mktemp("runs") / "run"),
        }
        return train(make_recipe(values), progress=False)

    return start


@pytest.fixture(scope="module")
def finished(run: Callable[..., RunResult]) -> RunResult:
    return run()


def losses(result: RunResult) -> list[float]:
    return [json.loads(line)["loss"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_language_model_without_chat_template_learns_plain_text(finished: RunResult) -> None:
    found = losses(finished)
    assert all(map(math.isfinite, found))
    assert found[-1] < 0.7 * found[0]


def test_the_run_says_that_it_read_plain_text_alone(finished: RunResult) -> None:
    config = (finished.folder / "config.yaml").read_text()
    assert config.count("format: text") == 1
    assert not (finished.folder / "quarantine.jsonl").exists()


def test_the_first_loss_is_the_weighted_mean_over_the_texts(run: Callable[..., RunResult], language: Path, corpus: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(language), AutoModelForCausalLM.from_pretrained(language)
    total = weight_of_all = 0.0
    for record in map(json.loads, corpus.read_text().splitlines()):
        ids = [*tokenizer(record["text"])["input_ids"], tokenizer.eos_token_id]
        weights = []
        for start, (count, weight) in zip((0, *_ends(record["weights"])), record["weights"], strict=False):
            weights += [weight] * len(tokenizer(record["text"][start : start + count], add_special_tokens=False)["input_ids"])
        per_token = torch.tensor([*weights, record["weights"][-1][1]])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total += float((loss * per_token[1:]).sum())
        weight_of_all += float(per_token[1:].sum())
    assert losses(run(batch_size=16, steps=1))[0] == pytest.approx(total / weight_of_all, rel=1e-5)


def _ends(runs: list[list[float]]) -> list[int]:
    return [sum(int(count) for count, _ in runs[: number + 1]) for number in range(len(runs))]


def test_packed_documents_train_as_the_same_padded_do(run: Callable[..., RunResult]) -> None:
    packing = {"packing": {"length": 512}}
    rows = len(losses(run(packing, batch_size=1, steps=None)))
    assert 1 < rows < 16
    whole = run(packing, batch_size=rows, steps=None)
    assert losses(whole) == pytest.approx(losses(run(batch_size=16, steps=1)), rel=1e-5)


def test_plain_text_trains_beside_dialogues_about_pictures(tmp_path: Path, tiny_folder: Path, tiny_data: Path, corpus: Path) -> None:
    values = {
        "model": {"base": str(tiny_folder), "preset": "llm"},
        "data": {"sources": [{"path": str(tiny_data)}, {"path": str(corpus), "format": "text"}]},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "steps": 8, "schedule": "constant", "warmup_share": 0.0},
        "output": str(tmp_path / "run"),
    }
    found = losses(train(make_recipe(values), progress=False))
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0]


def test_the_shipped_recipe_trains_the_terrariums_language_stage(tmp_path: Path, corpus: Path) -> None:
    recipe = Path(__file__).parents[2] / "train" / "recipes" / "pretrain_text.yaml"
    words = [f"--data.sources.0.path={corpus}", f"--output={tmp_path / 'run'}", "--train.steps=2", "--train.precision=fp32"]
    found = losses(train(load_recipe(recipe, words), progress=False))
    assert len(found) == 2
    assert all(map(math.isfinite, found))
