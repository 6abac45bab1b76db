import json
import shutil

import pytest

from data.trees.folder import read_tree
from data.trees.merge import part_folder
from data.trees.plan import TreeConfig

PARTS = 3


def _plan(part=0, parts=PARTS, **values):
    settings = {"children": (20, 1, 2, 1), "dedup": {"spelling": None, "embeddings": "none"}, "part": part, "parts": parts}
    return TreeConfig(**{**settings, **values})


def _words(prompt, seed):
    """Questions of a small vocabulary: parts repeat one another."""
    return (f"word {seed % 23}" if prompt.endswith("<|user|>") else f"turn {seed}"), "stop"


def _complete(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "complete"}))


@pytest.fixture
def parts(scripted, grow_in, tmp_path):
    trees = []
    for part in range(PARTS):
        folder = part_folder(tmp_path, part, PARTS)
        trees.append(grow_in(_plan(part), scripted(_words), folder))
        _complete(folder)
    return trees


def _merge(folder, **values):
    from data.trees.make import merge_parts

    return merge_parts(_plan(**values), folder)


def test_parts_write_what_no_other_part_writes(parts):
    ids = [node.id for tree in parts for node in tree.nodes]
    seeds = [node.seed for tree in parts for node in tree.nodes]
    assert len(set(ids)) == len(ids)
    assert len(set(seeds)) == len(seeds)


def test_a_merged_tree_holds_the_first_of_questions_that_repeat_one_another(parts, tmp_path):
    _merge(tmp_path)
    merged = read_tree(tmp_path)
    first = {}
    for tree in parts:
        for node in tree.nodes:
            if node.layer == 0:
                first.setdefault(node.text, node)
    roots = {node.text: node for node in merged.nodes if node.layer == 0}
    assert roots == first
    below = {node.id.partition(".")[0] for node in merged.nodes}
    assert below == {node.id for node in roots.values()}


def test_what_a_merge_leaves_out_is_counted(parts, tmp_path):
    result = _merge(tmp_path)
    left_out = sum(len(tree.nodes) for tree in parts) - result["nodes"]
    assert result["dropped"]["repeats_another_part"] == left_out > 0
    for layer in result["layers"]:
        assert layer["sampled"] == layer["kept"] + sum(layer["dropped"].values())


def test_an_interrupted_merge_is_done_again(parts, tmp_path, monkeypatch):
    from data.trees.folder import TreeFolder

    committed, commit = [], TreeFolder.commit

    def stop(folder, shard):
        if len(committed) == 3:
            raise KeyboardInterrupt
        committed.append(shard)
        commit(folder, shard)

    with monkeypatch.context() as patch:
        patch.setattr(TreeFolder, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            _merge(tmp_path)
    interrupted = _merge(tmp_path)["nodes"]
    again = _merge(tmp_path)["nodes"]
    assert interrupted == again == len(read_tree(tmp_path).nodes)


def test_a_missing_part_is_named(parts, tmp_path):
    part_folder(tmp_path, 1, PARTS).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="part 1 is missing"):
        _merge(tmp_path)


def test_a_part_that_is_still_growing_is_named(parts, scripted, grow_in, tmp_path):
    grow_in(_plan(2, children=(30, 1, 2, 1)), scripted(_words), part_folder(tmp_path, 2, PARTS))
    with pytest.raises(ValueError, match="0002-of-0003 is still growing"):
        _merge(tmp_path)


def test_parts_of_different_plans_are_not_merged(parts, scripted, grow_in, tmp_path):
    folder = part_folder(tmp_path, 2, PARTS)
    shutil.rmtree(folder)
    grow_in(_plan(2, seed=7), scripted(_words), folder)
    _complete(folder)
    with pytest.raises(ValueError, match="another plan or model"):
        _merge(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"seed": 99}, "seed: 0 before, 99 now"), ({"children": (40, 1, 2, 1)}, "layers"), ({"filters": {"refusals": False}}, "refusals")],
)
def test_parts_are_merged_by_the_plan_by_which_they_grew(parts, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        _merge(tmp_path, **values)


def test_parts_that_grew_differently_far_are_not_merged(parts, scripted, grow_in, tmp_path):
    folder = part_folder(tmp_path, 2, PARTS)
    grow_in(_plan(2, children=(30, 1, 2, 1)), scripted(_words), folder)
    _complete(folder)
    with pytest.raises(ValueError, match="0002-of-0003 grew by another plan"):
        _merge(tmp_path)


def test_a_merge_that_was_stopped_is_not_trained_on(parts, tmp_path):
    from data.config import SourceConfig
    from data.readers import stream

    _merge(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"status": "growing"}))
    with pytest.raises(ValueError, match="still growing"):
        list(stream(SourceConfig(path=str(tmp_path), format="tree")))


def test_a_folder_without_parts_says_how_to_grow_them(tmp_path):
    with pytest.raises(ValueError, match="--part 0/8"):
        _merge(tmp_path)
