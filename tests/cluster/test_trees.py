"""A tree that grows on a Slurm cluster: an array with one part to a task, then the merge."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.trees.folder import read_manifest, read_tree
from data.trees.merge import part_folder

ROOT = Path(__file__).parents[2]
ROOTS, PARTS = 24, 2
RECIPE: dict[str, Any] = {
    "model": {"base": "terrarium"},
    "tree": {
        "children": [ROOTS, 1, 4, 1],
        "max_tokens": [48, 64],
        "dedup": {"embeddings": "none"},
        "engine": {"kind": "transformers", "batch_size": 2},
    },
}
# Stands in for perennial where only what the job does counts: says that it is there, then waits to be interrupted.
WAITING = """\
#!/usr/bin/env bash
trap 'exit 75' INT
echo waiting
for _ in {1..600}; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Grown:
    """A growth that was submitted."""

    folder: Path
    array: str
    merge: str

    def log(self, part: int) -> str:
        return self._read(f"part-{part}.{self.array}.log")

    @property
    def merge_log(self) -> str:
        return self._read(f"merge.{self.merge}.log")

    def shards(self, part: int) -> int:
        return len(list((part_folder(self.folder, part, PARTS) / "shards").glob("*.jsonl")))

    def _read(self, name: str) -> str:
        path = self.folder / "logs" / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


def submit(cluster, folder: Path, recipe: dict[str, Any] = RECIPE, *, python: str = "", time_limit: str = "30") -> Grown:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = (folder / "recipe.yaml", "--parts", PARTS, "--output", folder / "tree", "--", f"--time={time_limit}")
    said = cluster.run("bash", ROOT / "scripts/slurm/trees.sh", *words, extra={"PERENNIAL_PYTHON": python})
    array, merge = re.findall(r"^(?:array|job) (\d+) ", said, re.MULTILINE)
    return Grown(folder=folder / "tree", array=array, merge=merge)


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """A tree whose parts grew without interruption, merged."""
    grown = submit(cluster, tmp_path_factory.mktemp("cluster") / "undisturbed")
    cluster.wait_for(grown.array)
    assert cluster.wait_for(grown.merge)[0]["JobState"] == "COMPLETED", grown.log(0) + grown.log(1) + grown.merge_log
    return grown


@pytest.fixture(scope="module")
def disturbed(cluster, undisturbed: Grown, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """The same plan; in the midst of growing, part 0 hears that its time is nearly up while part 1 is requeued by an administrator."""
    grown = submit(cluster, tmp_path_factory.mktemp("cluster") / "disturbed")
    open_parts = {0: ("scancel", "--batch", "--signal=USR1"), 1: ("scontrol", "requeue")}
    while open_parts:
        cluster.wait_until(lambda: any(grown.shards(part) >= 3 for part in open_parts), 150, "parts have grown to 3 shards")
        for part in [part for part in open_parts if grown.shards(part) >= 3]:
            cluster.run(*open_parts.pop(part), f"{grown.array}_{part}")
            assert read_manifest(part_folder(grown.folder, part, PARTS))["status"] == "growing"
    cluster.wait_for(grown.array)
    cluster.wait_for(grown.merge)
    return grown


@pytest.fixture
def waiting(cluster, tmp_path: Path) -> Iterator[Grown]:
    """Tasks that do nothing but wait to be interrupted; cancelled at the end."""
    python = tmp_path / "waiting"
    python.write_text(WAITING, encoding="utf-8")
    python.chmod(0o755)
    grown = submit(cluster, tmp_path / "job", python=str(python))
    cluster.wait_until(lambda: all("\nwaiting\n" in grown.log(part) for part in range(PARTS)), 60, "both tasks wait")
    yield grown
    cluster.stop_jobs()


def test_parts_grow_on_both_nodes(cluster, undisturbed: Grown) -> None:
    assert {one["NodeList"] for one in cluster.jobs(undisturbed.array)} == {"n1", "n2"}


def test_the_merged_tree_holds_the_roots_of_all_parts(undisturbed: Grown) -> None:
    tree = read_tree(undisturbed.folder)
    roots = sum(node.parent is None for node in tree.nodes)
    assert roots + tree.layers[0]["dropped"].get("repeats_another_part", 0) == ROOTS


def test_logs_name_part_job_and_node(cluster, undisturbed: Grown) -> None:
    nodes = [one["NodeList"] for one in cluster.jobs(undisturbed.array)]
    assert all(f"part {part} of 2: job {undisturbed.array}_{part} on {nodes[part]}, start 1:" in undisturbed.log(part) for part in range(2))


def test_a_task_whose_time_is_nearly_up_requeues_itself_once(disturbed: Grown) -> None:
    assert "time is up; requeued" in disturbed.log(0) and "start 2:" in disturbed.log(0)
    assert "start 3:" not in disturbed.log(0)


def test_a_requeued_task_stops_in_order_before_it_starts_again(disturbed: Grown) -> None:
    assert "stopped; what is committed is kept" in disturbed.log(1) and "start 2:" in disturbed.log(1)


def test_the_merge_waits_for_tasks_that_start_again(cluster, disturbed: Grown) -> None:
    ends = [one["EndTime"] for one in cluster.jobs(disturbed.array)]
    assert cluster.jobs(disturbed.merge)[0]["StartTime"] >= max(ends)


def test_a_tree_whose_parts_were_interrupted_equals_the_undisturbed_one(disturbed: Grown, undisturbed: Grown) -> None:
    assert list(read_tree(disturbed.folder).nodes) == list(read_tree(undisturbed.folder).nodes)


def test_a_failing_part_says_that_the_merge_will_not_start(cluster, tmp_path: Path) -> None:
    grown = submit(cluster, tmp_path / "failing", {**RECIPE, "tree": RECIPE["tree"] | {"children": [ROOTS]}})
    assert {one["ExitCode"] for one in cluster.wait_for(grown.array)} == {"2:0"}
    assert "failed with exit code 2; the jobs that wait for it will not start" in grown.log(1)


def test_the_merge_is_cancelled_unstarted_when_a_part_fails(cluster, tmp_path: Path) -> None:
    grown = submit(cluster, tmp_path / "failing", {**RECIPE, "tree": RECIPE["tree"] | {"children": [ROOTS]}})
    (merge,) = cluster.wait_for(grown.merge)
    assert (merge["JobState"], grown.merge_log) == ("CANCELLED", "")


def test_the_merge_waits_for_the_parts(cluster, waiting: Grown) -> None:
    (merge,) = cluster.jobs(waiting.merge)
    assert (merge["JobState"], merge["Reason"]) == ("PENDING", "Dependency")


def test_a_cancelled_task_does_not_requeue_itself(cluster, waiting: Grown) -> None:
    cluster.run("scancel", waiting.array)
    cluster.wait_until(lambda: all("what is committed is kept" in waiting.log(part) for part in range(PARTS)), 30, "both tasks stop")
    cluster.wait_until(lambda: not cluster.run("squeue", "--noheader"), 30, "the queue is empty")
    assert {one["JobState"] for one in cluster.jobs(waiting.array)} == {"CANCELLED"}


def test_the_last_task_requeues_itself_without_the_others(cluster, waiting: Grown) -> None:
    cluster.run("scancel", "--batch", "--signal=USR1", f"{waiting.array}_{PARTS - 1}")
    cluster.wait_until(lambda: "start 2:" in waiting.log(PARTS - 1), 60, "the task starts again")
    assert cluster.jobs(f"{waiting.array}_0")[0]["JobState"] == "RUNNING" and "stopped" not in waiting.log(0)


def test_a_task_that_commits_nothing_gives_up_at_the_third_time(cluster, waiting: Grown) -> None:
    for start in (1, 2, 3):
        cluster.wait_until(lambda start=start: waiting.log(0).count("\nwaiting\n") == start, 60, f"start {start}")
        cluster.run("scancel", "--batch", "--signal=USR1", f"{waiting.array}_0")
    cluster.wait_until(lambda: cluster.jobs(f"{waiting.array}_0")[0]["JobState"] == "FAILED", 30, "the task has failed")
    assert "three times in a row its time was up before anything was committed" in waiting.log(0)
