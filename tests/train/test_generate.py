import json
import math
import os
import random
import signal
import time
from pathlib import Path

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
    settings = {"children": (12, 1, 2, 1), "max_tokens": (24, 40), "temperature": 1.0, "max_rounds": 3}
    return TreeConfig(**{**settings, "dedup": {"spelling": None, "embeddings": "none"}, **values})


def _nodes(folder):
    from data.trees.folder import read_tree

    return read_tree(folder).nodes


def test_the_same_seed_grows_the_same_tree_and_another_seed_another(chatty, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(_plan(seed=seed), *chatty, tmp_path / name, progress=False)
    first, second, other = (_nodes(tmp_path / name) for name in "abc")
    assert first == second
    assert first != other


def test_a_grown_folder_holds_tree_manifest_dialogues_and_report(chatty, tmp_path):
    from data.readers import read

    result = generate(_plan(), *chatty, tmp_path / "tree", progress=False)
    names = {path.name for path in (tmp_path / "tree").iterdir()}
    assert {"shards", "manifest.json", "dialogues.json", "report.json", "report.html"} <= names
    assert len(read(result["files"]["llava"])) == result["dialogues"] > 5
    manifest = json.loads((tmp_path / "tree" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert len(manifest["identity"]["weights_sha256"]) == 64
    assert {"torch", "transformers", "python"} <= manifest["versions"].keys()
    assert json.loads((tmp_path / "tree" / "report.json").read_text())["sampled"] == result["sampled"]


def test_a_finished_tree_is_exported_again_without_growing(chatty, tmp_path, monkeypatch):
    generate(_plan(), *chatty, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    monkeypatch.setattr("data.trees.transformers_engine.TransformersEngine.complete", None)
    result = generate(_plan(export={"sample": 3, "formats": ["llava", "parquet"]}), *chatty, tmp_path, progress=False)
    assert result["exported_dialogues"] == 3
    assert set(result["files"]) == {"llava", "parquet"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == before


def test_an_extended_tree_keeps_no_export_of_the_smaller_one(chatty, tmp_path):
    generate(_plan(export={"formats": ["llava", "text"]}), *chatty, tmp_path, progress=False)
    assert (tmp_path / "text.jsonl").exists()
    generate(_plan(children=(20, 1, 2, 1)), *chatty, tmp_path, progress=False)
    assert not (tmp_path / "text.jsonl").exists()


@pytest.mark.parametrize("export", [{"sample": 3}, {"weights": "raw", "formats": ["parquet"]}, {"sample": 3, "formats": ["text"]}])
def test_the_source_entry_names_the_file_where_that_holds_something_else(chatty, tmp_path, export):
    from data.config import SourceConfig
    from data.readers import stream

    result = generate(_plan(export=export), *chatty, tmp_path, progress=False)
    assert len(list(stream(SourceConfig(**result["source"])))) == result["exported_dialogues"]
    assert result["source"]["path"] in result["files"].values()


def test_evaluation_questions_count_by_what_they_say_not_by_where_they_lie(chatty, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("What is the answer to the last of all questions?\n")
    generate(_plan(filters={"decontaminate": [str(questions)]}), *chatty, tmp_path / "tree", progress=False)
    moved = questions.rename(tmp_path / "moved.txt")
    generate(_plan(filters={"decontaminate": [str(moved)]}), *chatty, tmp_path / "tree", progress=False)
    moved.write_text("Another question altogether, which was not there before?\n")
    with pytest.raises(ValueError, match="decontaminate"):
        generate(_plan(filters={"decontaminate": [str(moved)]}), *chatty, tmp_path / "tree", progress=False)


def test_no_place_on_this_machine_stands_in_a_tree(base, tmp_path):
    plan = TreeConfig(children=(6, 1), max_tokens=(40, 48))
    generate(plan, *base, tmp_path / "tree", progress=False)
    told = (tmp_path / "tree" / "manifest.json").read_text() + (tmp_path / "tree" / "report.html").read_text()
    assert str(Path(__file__).parents[2]) not in told


def test_a_model_in_memory_grows_whole_trees_alone(chatty, tmp_path):
    with pytest.raises(ValueError, match="perennial generate"):
        generate(_plan(parts=2), *chatty, tmp_path, progress=False)


def test_the_source_entry_of_a_grown_tree_can_be_trained_on(chatty, tmp_path):
    from data.config import SourceConfig
    from data.readers import stream

    result = generate(_plan(), *chatty, tmp_path, progress=False)
    assert len(list(stream(SourceConfig(**result["source"])))) == result["dialogues"]


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
    plan = _plan(children=(20, 1), max_tokens=9, min_yield=0.0)
    trees = []
    for name, one in (("lmm", model), ("llm", language)):
        head, one.generation_config.eos_token_id = one.lm_head.forward, end
        one.lm_head.forward = lambda states, head=head: head(states).index_add(
            -1, torch.tensor([end]), torch.full((*states.shape[:-1], 1), 4.0)
        )
        generate(plan, one, processor.tokenizer, tmp_path / name, progress=False)
        one.lm_head.forward = head
        trees.append(_nodes(tmp_path / name))
    assert trees[0] == trees[1]


def _grow_in_a_child(plan, pair, folder):
    """Grows in a process of its own, which shares the model in memory; gives its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            generate(plan, *pair, folder, progress=False)
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_growth_killed_ten_times_ends_in_the_tree_of_one_that_was_not(chatty, tmp_path):
    plan = _plan(children=(60, 1, 3, 1), engine={"kind": "transformers", "batch_size": 8})
    seconds = generate(plan, *chatty, tmp_path / "whole", progress=False)["seconds"]
    moments, deaths = random.Random(0), 0
    for _ in range(10):
        child = _grow_in_a_child(plan, chatty, tmp_path / "killed")
        time.sleep(moments.uniform(0.02, 0.15) * seconds)
        os.kill(child, signal.SIGKILL)
        deaths += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert deaths >= 5  # on a machine that got faster meanwhile the last ones may come too late
    generate(plan, *chatty, tmp_path / "killed", progress=False)
    assert _nodes(tmp_path / "killed") == _nodes(tmp_path / "whole")


@pytest.fixture(scope="module")
def base():
    from data.terrarium.base import resolve
    from model.build import load_pair

    return load_pair(resolve("terrarium"))


SHAPES = {
    "wide": {"shape": "wide", "children": (12, 1, 1, 1)},
    "balance": {"shape": "balance", "children": (6, 1, 2, 1)},
    "single": {"shape": "single", "children": (12, 1)},
    "talk": {"shape": "talk", "children": (8, 1, 1, 1, 1, 1)},
    "free form": {"children": (4, 2, 2, 1), "temperature": 1.0, "ends": 0.5},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_terrariums_base_grows_every_shape(base, tmp_path, shape):
    plan = TreeConfig(**SHAPES[shape], max_tokens=(40, 48))
    result = generate(plan, *base, tmp_path, progress=False)
    assert result["dialogues"] >= plan.dialogues * 0.6
    assert result["unanswered_questions"] <= result["nodes"] * 0.1


def test_the_histogram_of_similarities_comes_before_a_threshold(base, tmp_path):
    plan = TreeConfig(children=(60, 1), max_tokens=(40, 48), dedup={"threshold": None, "embeddings": "states"})
    result = generate(plan, *base, tmp_path / "tree", progress=False)
    assert (tmp_path / "tree" / "similarities.png").stat().st_size > 5000
    assert "tree.dedup.threshold" in result["next"]
    assert not (tmp_path / "tree" / "manifest.json").exists()


def test_dialogues_longer_than_the_model_are_refused_before_growth(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"tree.max_tokens .* 512 positions"):
        generate(_plan(max_tokens=(256, 256, 64, 64)), *tiny, tmp_path / "tree", progress=False)
    assert not (tmp_path / "tree").exists()


def test_an_empty_yield_is_said_with_its_counts(tiny, tmp_path):
    plan = _plan(children=(4, 1), max_tokens=1, max_rounds=2)
    with pytest.raises(RuntimeError, match="there is no dialogue"):
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


def test_the_command_grows_a_tree_into_the_output_folder(tmp_path, capsys):
    recipe = _recipe(tmp_path, "model: {base: terrarium}\ntree: {children: [6, 1], max_tokens: 40}")
    assert _main(recipe, "--output", str(tmp_path / "tree"), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["dialogues"] > 3
    assert printed["folder"] == str(tmp_path / "tree")


def test_the_command_grows_parts_that_it_merges(tmp_path, capsys):
    recipe = _recipe(tmp_path, "model: {base: terrarium}\ntree: {children: [12, 1], max_tokens: 40}")
    output = str(tmp_path / "tree")
    for part in range(2):
        assert _main(recipe, "--output", output, "--part", f"{part}/2") == 0
    assert _main(recipe, "--output", output, "--merge") == 0
    capsys.readouterr()
    numbers = {int(node.id.partition(".")[0]) % 2 for node in _nodes(tmp_path / "tree")}
    assert numbers == {0, 1}


def test_a_speed_without_a_dry_run_is_refused(tmp_path, capsys):
    assert _main(_recipe(tmp_path, "tree: {shape: single}"), "--tokens-per-second", "9") == 2
    assert "--dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["3", "1/x", "4/4"])
def test_a_wrong_part_is_refused_in_one_message(tmp_path, capsys, words):
    assert _main(_recipe(tmp_path, "tree: {shape: single}"), "--dry-run", "--part", words) == 2
    assert "part" in capsys.readouterr().err


def test_a_model_without_chat_template_is_refused_with_what_to_do(tiny, tmp_path):
    model, processor = tiny
    processor.tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template; set tokenizer\.chat_template"):
        generate(_plan(), model, processor, tmp_path / "tree", progress=False)
