import json

import pytest

from data.trees.plan import TreeConfig

TALKS = [
    [("human", "Why is the sky blue?"), ("gpt", "It scatters light.")],
    [("human", "Why is the sky blue?!"), ("gpt", "No idea.")],
    [("human", "What is rain?"), ("gpt", "Water."), ("human", "And hail?"), ("gpt", "Ask rain@meteofrance.fr for it.")],
    [("human", "Who are you?"), ("gpt", "I am sorry, but I cannot answer that.")],
]


def _records(talks):
    return [{"id": str(n), "conversations": [{"from": who, "value": text} for who, text in talk]} for n, talk in enumerate(talks)]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "talks.json").write_text(json.dumps(_records(TALKS)))
    return tmp_path / "talks.json"


def _sift(corpus, folder, **more):
    from data.trees.make import sift_corpus

    plan = TreeConfig(corpus={"path": str(corpus), "format": "sharegpt"}, **more)
    return sift_corpus(plan, folder, progress=False)


def test_an_external_corpus_is_sifted_as_a_tree_is(corpus, tmp_path):
    result = _sift(corpus, tmp_path / "tree")
    assert (result["dialogues"], result["nodes"]) == (2, 4)
    assert result["dropped"]["exact_duplicate"] == 1
    assert result["dropped"]["personal_data"] == 1
    assert result["dropped"]["refusal"] == 1


def test_a_dialogue_ends_before_the_round_with_a_useless_turn(corpus, tmp_path):
    from data.readers import read

    dialogues = read(_sift(corpus, tmp_path / "tree")["files"]["llava"])
    assert [turn.text for turn in dialogues[1].turns] == ["What is rain?", "Water."]


def test_every_turn_of_the_corpus_is_kept_or_counted_as_dropped(corpus, tmp_path):
    result = _sift(corpus, tmp_path / "tree")
    for layer in result["layers"]:
        assert layer["sampled"] == layer["kept"] + sum(layer["dropped"].values())
    assert sum(layer["sampled"] for layer in result["layers"]) == sum(map(len, TALKS))


def test_a_sifted_corpus_goes_on_block_by_block(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("data.trees.sift.BLOCK", 1)
    corpus.write_text(json.dumps(_records([TALKS[0], TALKS[2], TALKS[3], TALKS[1]])))  # the repeated question comes last
    whole = _sift(corpus, tmp_path / "whole")
    committed = []

    def stop(folder, shard):
        if len(committed) == 2:
            raise KeyboardInterrupt
        committed.append(shard)
        kept(folder, shard)

    from data.trees.folder import TreeFolder

    kept = TreeFolder.commit
    with monkeypatch.context() as patch:
        patch.setattr(TreeFolder, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            _sift(corpus, tmp_path / "stopped")
    resumed = _sift(corpus, tmp_path / "stopped")
    assert [resumed[name] for name in ("nodes", "dropped", "dialogues")] == [whole[name] for name in ("nodes", "dropped", "dialogues")]


def test_what_was_skipped_is_told_by_every_later_run_as_well(corpus, tmp_path):
    corpus.write_text(json.dumps([*_records(TALKS), {"id": "x", "conversations": [{"from": "human", "value": "And?"}]}]))
    _sift(corpus, tmp_path / "tree")
    _sift(corpus, tmp_path / "tree")
    manifest = json.loads((tmp_path / "tree" / "manifest.json").read_text())
    assert sum(manifest["skipped"].values()) == 1


def test_a_corpus_may_move(corpus, tmp_path):
    first = _sift(corpus, tmp_path / "tree")
    (tmp_path / "elsewhere").mkdir()
    moved = corpus.rename(tmp_path / "elsewhere" / "talks.json")
    assert _sift(moved, tmp_path / "tree")["nodes"] == first["nodes"]


def test_a_changed_corpus_is_refused_in_the_same_folder(corpus, tmp_path):
    _sift(corpus, tmp_path / "tree")
    corpus.write_text(corpus.read_text().replace("Water", "Wet"))
    with pytest.raises(ValueError, match="corpus"):
        _sift(corpus, tmp_path / "tree")
