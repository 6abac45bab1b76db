import json
import math

import pytest
import torch

from data.trees.plan import TreeConfig
from train.generate import generate


@pytest.fixture
def chatty(tiny):
    """The tiny model, held to letters, each followed by the end of the turn one time in eight: alone it would babble on."""
    model, processor = tiny
    tokenizer = processor.tokenizer
    silent = [number for number in range(len(tokenizer)) if not tokenizer.decode([number]).strip().isalpha()]
    head = model.lm_head.forward

    def letters_then_end(states):
        logits = head(states)
        logits[..., silent] = -torch.inf
        logits[..., tokenizer.eos_token_id] = logits.logsumexp(-1) - math.log(7)
        return logits

    model.lm_head.forward = letters_then_end
    return model, processor


def _plan(**values):
    settings = {"children": (12, 1, 2, 1), "max_tokens": (24, 40, 24, 40), "answer_temperature": 1.0, "max_rounds": 3}
    return TreeConfig(**{**settings, "dedup": {"near": "none"}, **values})


def test_the_same_seed_grows_the_same_tree_and_another_seed_another(chatty, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(_plan(seed=seed), *chatty, tmp_path / name, progress=False)
    first, second, other = ((tmp_path / name / "tree.jsonl").read_text() for name in "abc")
    assert first == second
    assert first != other


def test_a_grown_folder_holds_tree_manifest_dialogues_and_report(chatty, tmp_path):
    from data.readers import read

    result = generate(_plan(), *chatty, tmp_path / "tree", progress=False)
    names = {path.name for path in (tmp_path / "tree").iterdir()}
    assert names == {"tree.jsonl", "manifest.json", "dialogues.json", "report.json"}
    assert len(read(result["dialogues_file"])) == result["dialogues"] > 5
    manifest = json.loads((tmp_path / "tree" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert len(manifest["identity"]["weights_sha256"]) == 64
    assert {"torch", "transformers", "python"} <= manifest["versions"].keys()
    assert json.loads((tmp_path / "tree" / "report.json").read_text())["sampled"] == result["sampled"]


def test_a_finished_tree_is_exported_again_without_growing(chatty, tmp_path, monkeypatch):
    generate(_plan(), *chatty, tmp_path, progress=False)
    before = (tmp_path / "tree.jsonl").stat().st_mtime_ns
    monkeypatch.setattr("data.trees.transformers_engine.TransformersEngine.complete", None)
    result = generate(_plan(sample=3), *chatty, tmp_path, progress=False)
    assert result["exported_dialogues"] == 3
    assert (tmp_path / "tree.jsonl").stat().st_mtime_ns == before


def test_a_changed_model_is_refused_in_the_same_folder(chatty, tmp_path):
    model, processor = chatty
    generate(_plan(), model, processor, tmp_path, progress=False)
    with torch.no_grad():
        model.lm_head.weight[7, 0] += 1.0
    with pytest.raises(ValueError, match="weights_sha256"):
        generate(_plan(), model, processor, tmp_path, progress=False)


def test_a_text_only_model_grows_the_same_tree_as_the_lmm_around_it(tiny, tmp_path):
    from model.language import extract

    model, processor = tiny
    end = processor.tokenizer.eos_token_id
    language = extract(model)
    plan = _plan(children=(20, 1), max_tokens=(9, 9), min_yield=0.0)
    trees = []
    for name, one in (("lmm", model), ("llm", language)):
        head, one.generation_config.eos_token_id = one.lm_head.forward, end
        one.lm_head.forward = lambda states, head=head: head(states).index_add(
            -1, torch.tensor([end]), torch.full((*states.shape[:-1], 1), 4.0)
        )
        generate(plan, one, processor.tokenizer, tmp_path / name, progress=False)
        one.lm_head.forward = head
        trees.append((tmp_path / name / "tree.jsonl").read_text())
    assert trees[0] == trees[1]


def test_dialogues_longer_than_the_model_are_refused_before_growth(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"tree.max_tokens .* 512 positions"):
        generate(_plan(max_tokens=(256, 256, 64, 64)), *tiny, tmp_path / "tree", progress=False)
    assert not (tmp_path / "tree").exists()


def test_an_empty_yield_is_said_with_its_counts(tiny, tmp_path):
    plan = _plan(children=(4, 1), max_tokens=(1, 1), max_rounds=2)
    with pytest.raises(RuntimeError, match="wrote no dialogue"):
        generate(plan, *tiny, tmp_path, progress=False)


def _recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def _main(*words):
    from train.cli import main

    return main(["generate", *words])


def test_a_dry_run_prints_the_counts_of_the_plan_as_json(tmp_path, capsys):
    recipe = _recipe(tmp_path, "tree: {shape: single}")
    assert _main(recipe, "--dry-run", "--json", "--children", "100,1,10,1,10,1", "--tokens-per-second", "1000") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["nodes"], printed["dialogues"]) == (22_200, 10_000)
    assert printed["hours_at_most"] > 0


@pytest.mark.parametrize("children", ["3,x", "3", "3,0", ""])
def test_wrong_children_on_the_command_line_are_refused_in_one_message(tmp_path, capsys, children):
    assert _main(_recipe(tmp_path, "tree: {shape: single}"), "--dry-run", "--children", children) == 2
    message = capsys.readouterr().err
    assert "--children" in message
    assert "Traceback" not in message


def test_a_recipe_without_output_says_what_to_add(tmp_path, tiny_folder, capsys):
    assert _main(_recipe(tmp_path, f"model: {{base: {tiny_folder}}}\ntree: {{shape: single}}")) == 2
    assert "--output" in capsys.readouterr().err


def test_the_command_grows_a_tree_into_the_output_folder(tmp_path, tiny_folder, capsys):
    recipe = _recipe(tmp_path, f"model: {{base: {tiny_folder}}}\ntree: {{children: [4, 1], max_tokens: [2, 2]}}")
    code = _main(recipe, "--output", str(tmp_path / "tree"), "--json")
    assert (tmp_path / "tree" / "manifest.json").is_file()
    if code:  # two tokens of a random model seldom make a dialogue; then the counts must be told
        assert "wrote no dialogue" in capsys.readouterr().err
