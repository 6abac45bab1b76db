import errno
import json

import pytest

from data.trees import shards
from data.trees.folder import TreeFolder, read_tree
from data.trees.nodes import Node
from data.trees.shards import Shard, Tally


def _node(id, text="text"):
    return Node(
        id=id, parent=id.rpartition(".")[0] or None, layer=id.count("."), role="assistant" if id.count(".") % 2 else "user",
        text=text, tokens=1, seed=0, logprob=None, finish_reason="stop",
    )  # fmt: skip


def _shard(*ids, block=0, layer=0):
    nodes = tuple(_node(id) for id in ids)
    tally = Tally(sampled=len(nodes), kept=len(nodes), tokens=len(nodes))
    stage = shards.stage_name(layer, 0)
    return Shard(growth=0, stage=stage, block=block, tallies={layer: tally}, attempts={"": 1}, seconds=0.0, nodes=nodes)


def _folder(path, identity=None, layers=((3, 16), (1, 16))):
    extent = {"layers": [{"children": children, "max_tokens": limit} for children, limit in layers], "sizes": []}
    return TreeFolder(path, identity or {"plan": {"seed": 0}}, extent, {"model": "m"})


@pytest.fixture
def folder(tmp_path):
    home = _folder(tmp_path / "tree")
    home.begin()
    home.commit(_shard("0", "1"))
    home.commit(_shard("2", block=1))
    yield home
    home.close()


def test_what_is_committed_is_there_for_every_reader(folder):
    assert [node.id for node in read_tree(folder.path).nodes] == ["0", "1", "2"]


def test_a_shard_keeps_all_that_it_was_given(tmp_path):
    node = Node(
        id="0", parent=None, layer=0, role="user", text="a\u2028b\nc", tokens=3, seed=2**62, logprob=-1.5, finish_reason="stop",
        system="Be kind.", topic="moss",
    )  # fmt: skip
    tally = Tally(sampled=3, kept=1, tokens=9)
    tally.dropped["empty"] = 2
    shard = Shard(growth=1, stage="l00-r000", block=7, tallies={0: tally}, attempts={"": 3}, seconds=1.5, nodes=(node,))
    shards.write(shard, tmp_path)
    assert shards.read(tmp_path / shard.name) == shard


def test_a_tree_of_another_identity_is_not_touched(folder):
    folder.close()
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"plan\.seed: 0 before, 1 now"):
        _folder(folder.path, {"plan": {"seed": 1}})
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (((2, 16), (1, 16)), "layer 1: 3 children before, 2 now"),
        (((3, 16),), "2 layers before, 1 now"),
        (((3, 16), (1, 8)), r"layer 2: max_tokens: 16 before, 8 now"),
    ],
)
def test_a_plan_that_would_lose_what_grew_is_refused(folder, layers, message):
    with pytest.raises(ValueError, match=message):
        _folder(folder.path, layers=layers)


def test_a_larger_plan_is_a_growth_of_its_own(folder):
    folder.close()
    larger = _folder(folder.path, layers=((9, 16), (1, 16), (1, 16)))
    larger.begin()
    assert (larger.growth, len(larger.earlier)) == (1, 2)
    assert len(json.loads((folder.path / "manifest.json").read_text())["extents"]) == 2
    larger.close()


def test_complete_is_said_of_the_plan_that_was_grown_alone(folder):
    folder.finish()
    assert _folder(folder.path).is_complete
    assert not _folder(folder.path, layers=((9, 16), (1, 16))).is_complete


def test_a_second_process_is_turned_away(folder):
    with pytest.raises(ValueError, match="another process is growing"):
        _folder(folder.path).begin()


def test_what_another_process_committed_since_the_folder_was_opened_is_seen(tmp_path):
    late = _folder(tmp_path)
    early = _folder(tmp_path)
    early.begin()
    early.commit(_shard("0"))
    early.finish()
    early.close()
    late.begin()
    assert [node.id for node in late.tree.nodes] == ["0"]
    assert late.is_complete
    late.close()


def test_facts_about_the_growth_stay_when_a_finished_tree_is_opened_again(folder):
    folder.note_recall(0, {"spelling": {"planted": 3, "found": 3}})
    folder.finish(dialogues=1)
    folder.close()
    again = TreeFolder(folder.path, folder.identity, folder.extent, {"model": "m", "versions": {"torch": "other"}})
    again.begin()
    again.finish(dialogues=2)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    assert manifest["recall"] == {"0": {"spelling": {"planted": 3, "found": 3}}}
    assert (manifest["dialogues"], "versions" in manifest) == (2, True)
    again.close()


def test_resume_always_needs_something_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match="resume is always, but"):
        _folder(tmp_path / "new").begin("always")


def test_resume_never_refuses_what_is_there(folder):
    folder.close()
    with pytest.raises(ValueError, match="resume is never, but"):
        _folder(folder.path).begin("never")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.split("\n")[0] + "\n",
        lambda text: "",
        lambda text: text.replace('"id"', '"ix"'),
    ],
)
def test_a_damaged_shard_is_named(folder, damage):
    shard = folder.path / "shards" / _shard("0").name
    shard.write_text(damage(shard.read_text()))
    with pytest.raises(ValueError, match=rf"{shard.name} is no shard"):
        read_tree(folder.path)


def test_a_lost_shard_is_noticed(folder):
    (folder.path / "shards" / _shard("0").name).unlink()
    folder.close()
    again = _folder(folder.path)
    again.begin()
    with pytest.raises(ValueError, match="lacks block 0"):
        again.stage("l00-r000")
    again.close()


def test_a_node_that_stands_there_twice_is_noticed(folder):
    folder.commit(_shard("1", block=2))
    with pytest.raises(ValueError, match="holds node 1 twice"):
        read_tree(folder.path)


def test_a_node_without_its_parent_is_noticed(folder):
    folder.commit(_shard("7.0", layer=1))
    with pytest.raises(ValueError, match=r"node 7\.0 but not its parent 7"):
        read_tree(folder.path)


def test_a_full_disk_is_said_with_what_is_kept(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data.trees.shards.write_lines", full)
    with pytest.raises(OSError, match=r"No space left on device.*committed before is kept"):
        folder.commit(_shard("3", block=2))
    assert [node.id for node in read_tree(folder.path).nodes] == ["0", "1", "2"]


def test_a_tree_of_an_older_format_is_refused_by_its_number(folder):
    manifest = json.loads((folder.path / "manifest.json").read_text())
    (folder.path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(ValueError, match="format 1"):
        read_tree(folder.path)
