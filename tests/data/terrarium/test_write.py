"""The Terrarium on disk: ordinary LLaVA files."""

import json

import pytest
import yaml
from PIL import Image

from data.readers import read
from data.terrarium.sample import Sample
from data.terrarium.skills import SUITES, samples
from data.terrarium.world import check_disjoint, write_world
from data.terrarium.write import write


def test_what_was_written_is_read_back_by_the_ordinary_reader(tmp_path):
    drawn = samples("colour", "train", 3, seed=0) + samples("dialogues", "train", 3, seed=0)
    found = read(write(drawn, tmp_path / "set.json"), "llava")
    assert len(found) == 6
    assert found[0].turns[0].text == f"<image>\n{drawn[0].rounds[0][0]}"
    assert found[0].turns[1].text == drawn[0].rounds[0][1]
    assert Image.open(found[0].images[0]).tobytes() == drawn[0].picture().tobytes()
    spoken = [turn for turn in found[3].turns if turn.role != "system"]
    assert [turn.text for turn in spoken] == [text for pair in drawn[3].rounds for text in pair]


def test_an_interrupted_write_leaves_no_json_behind(tmp_path):
    def broken():
        yield from samples("facts", "train", 2, seed=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken(), tmp_path / "set.json")
    assert not list(tmp_path.glob("*.json"))


def test_a_world_has_a_test_file_for_every_skill_and_is_not_written_twice(tmp_path):
    suite = write_world(tmp_path, test_size=4, train_size=6, skills=("counting",))
    tasks = yaml.safe_load(suite.read_text())["tasks"]
    assert [task["name"] for task in tasks] == [skill for members in SUITES.values() for skill in members]
    assert all(len(json.loads((tmp_path / task["path"]).read_text())) == 4 for task in tasks)
    assert [file.stem for file in (tmp_path / "train").glob("*.json")] == ["counting"]
    before = suite.stat().st_mtime_ns
    write_world(tmp_path, test_size=4, train_size=6, skills=("counting",))
    assert suite.stat().st_mtime_ns == before
    write_world(tmp_path, test_size=5, train_size=6, skills=("counting",))
    assert len(json.loads((tmp_path / "test" / "facts.json").read_text())) == 5


def test_a_sample_in_both_splits_is_named():
    twin = Sample(skill="facts", key="facts/florin/food/1", rounds=(("q", "a"),))
    with pytest.raises(ValueError, match="florin"):
        check_disjoint([twin], [twin])


def test_a_test_set_larger_than_the_world_says_how_much_there_is():
    with pytest.raises(ValueError, match="ask for at most"):
        samples("opposites", "test", 100_000, seed=0)
