"""What scripts/trees.sh and scripts/slurm/trees.sh start, where no Slurm is needed to see it."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE, SLURM = "scripts/trees.sh", "scripts/slurm/trees.sh"

# Stands in for perennial: notes what it was given; fails, or waits to be interrupted, as the environment says.
FAKE_PYTHON = """\
#!/usr/bin/env bash
echo "gpus=${CUDA_VISIBLE_DEVICES-unset} safe=$PYTHONSAFEPATH $*" >>"$NOTES"
case "$*" in
  *--part\\ "${FAILS:-none}") echo "layer 2 is missing" >&2; exit 2 ;;
  *--part\\ "${WAITS:-none}")
    trap 'echo interrupted >>"$NOTES"; exit 75' INT
    echo waiting >>"$NOTES"
    for _ in {1..300}; do sleep 0.1; done
    echo waited-in-vain >>"$NOTES" ;;
esac
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {base: terrarium}\ntree: {shape: wide}\n", encoding="utf-8")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Two GPUs to see, with a Python that only notes what it is asked."""
    fake = tmp_path / "fake_python"
    fake.write_text(FAKE_PYTHON, encoding="utf-8")
    fake.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**kept, "CUDA_VISIBLE_DEVICES": "0,1", "PERENNIAL_PYTHON": str(fake), "NOTES": str(tmp_path / "notes")}


def run(script: str, *words: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / script), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, preexec_fn=hear_interrupts)


def hear_interrupts() -> None:
    """As at a terminal: what nohup or a background job starts, these tests included, ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def notes(environment: dict[str, str]) -> list[str]:
    path = Path(environment["NOTES"])
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").rglob("*.s[hb]*")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_shell_script_is_valid_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", [HERE, SLURM])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_says_how_the_script_is_called(script: str, option: str, environment: dict[str, str]) -> None:
    done = run(script, option, environment=environment)
    assert done.returncode == 0
    assert f"{script} RECIPE" in done.stdout and "set -euo" not in done.stdout


def test_a_dry_run_prints_one_command_for_each_gpu_then_the_merge(recipe: Path, environment: dict[str, str]) -> None:
    done = run(HERE, recipe, "--output", "runs/x", "--dry-run", "--tree.seed", 3, environment=environment)
    generate = f"{environment['PERENNIAL_PYTHON']} -m train generate {recipe} --output runs/x --tree.seed 3"
    assert done.stdout.splitlines() == [
        f"env CUDA_VISIBLE_DEVICES=0 {generate} --part 0/2",
        f"env CUDA_VISIBLE_DEVICES=1 {generate} --part 1/2",
        f"{generate} --merge",
    ]


def test_a_dry_run_starts_nothing(recipe: Path, environment: dict[str, str]) -> None:
    run(HERE, recipe, "--output", "runs/x", "--dry-run", environment=environment)
    assert notes(environment) == []


def test_gpus_are_dealt_out_in_groups(recipe: Path, environment: dict[str, str]) -> None:
    environment["CUDA_VISIBLE_DEVICES"] = "4,5,6,7,8"
    done = run(HERE, recipe, "--output", "runs/x", "--parts=3", "--gpus-per-part", 2, "--dry-run", environment=environment)
    assert [line.split()[1] for line in done.stdout.splitlines()[:3]] == [f"CUDA_VISIBLE_DEVICES={gpus}" for gpus in ("4,5", "6,7", "4,5")]


@pytest.mark.parametrize("gpus", ["", "-1"])
def test_without_a_gpu_one_process_grows_the_whole_tree(gpus: str, recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    environment["CUDA_VISIBLE_DEVICES"] = gpus
    assert run(HERE, recipe, "--output", tmp_path / "tree", environment=environment).returncode == 0
    assert notes(environment) == [f"gpus={gpus} safe=1 -m train generate {recipe} --output {tmp_path / 'tree'} --part 0/1"]


@pytest.mark.parametrize(("shown", "gpus"), [("echo 0; echo 1", ["0", "1"]), ("echo NVIDIA-SMI has failed; exit 9", [])])
def test_gpus_are_those_that_the_driver_shows(
    shown: str, gpus: list[str], recipe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{shown}\n", encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    del environment["CUDA_VISIBLE_DEVICES"]
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = run(HERE, recipe, "--output", "runs/x", "--dry-run", environment=environment)
    assert re.findall(r"CUDA_VISIBLE_DEVICES=(\S*)", done.stdout) == gpus


def test_no_process_imports_what_lies_in_the_folder_it_starts_in(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run(HERE, recipe, "--output", tmp_path / "tree", environment=environment)
    assert all(" safe=1 " in line for line in notes(environment))


def test_the_merge_follows_when_every_part_is_grown(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    assert run(HERE, recipe, "--output", tmp_path / "tree", "--parts", 5, environment=environment).returncode == 0
    *parts, merge = (line.split()[-1] for line in notes(environment))
    assert (sorted(parts), merge) == ([f"{part}/5" for part in range(5)], "--merge")


def test_a_division_that_was_begun_is_kept(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tree" / "parts" / "0000-of-0008").mkdir(parents=True)
    done = run(HERE, recipe, "--output", tmp_path / "tree", "--dry-run", environment=environment)
    assert len(done.stdout.splitlines()) == 8 + 1


def test_the_folder_is_the_one_of_the_recipe_when_none_is_given(environment: dict[str, str]) -> None:
    del environment["PERENNIAL_PYTHON"]
    done = run(HERE, "train/recipes/tree_demo.yaml", "--dry-run", environment=environment)
    assert "--output runs/tree_demo --part 0/2" in done.stdout


def test_a_failing_part_stops_the_others_without_a_merge(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    done = run(HERE, recipe, "--output", tmp_path / "tree", environment=environment | {"WAITS": "0/2", "FAILS": "1/2"})
    assert done.returncode == 1
    assert not [line for line in notes(environment) if line == "waited-in-vain" or "--merge" in line]


def test_a_failing_part_is_named_with_its_log_and_what_went_wrong(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "tree" / "logs" / "part-1.log"
    done = run(HERE, recipe, "--output", tmp_path / "tree", environment=environment | {"FAILS": "1/2"})
    assert f"part 1 of 2 failed with exit code 2; the others stop. Its log is {log}, which ends: layer 2 is missing" in done.stderr


def test_a_part_that_is_stopped_is_interrupted_so_that_it_can_go_on(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", str(ROOT / HERE), str(recipe), "--output", str(tmp_path / "tree")]
    options = {"cwd": ROOT, "env": environment | {"WAITS": "0/2"}, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=hear_interrupts, **options) as started:
        deadline = time.monotonic() + 30
        while "waiting" not in notes(environment) and time.monotonic() < deadline:
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=30) == 75
    assert "interrupted" in notes(environment)


def test_the_array_holds_each_part_with_a_merge_that_waits_for_all(recipe: Path, environment: dict[str, str]) -> None:
    words = (recipe, "--parts", 8, "--at-once", 4, "--output", "runs/x", "--dry-run", "--", "--gpus=1", "--partition=long")
    array, merge = run(SLURM, *words, environment=environment).stdout.splitlines()
    assert "--array=0-7%4 " in array and "--dependency" not in array
    assert "--dependency=afterok:ARRAY_ID " in merge and "--array" not in merge
    assert all(" --gpus=1 --partition=long " in line for line in (array, merge))


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (HERE, (), "the recipe comes first"),
        (HERE, ("absent.yaml",), "recipe absent.yaml does not exist"),
        (HERE, ("RECIPE", "--parts", "none", "--output=x"), "--parts: got 'none', expected a whole number from 1"),
        (HERE, ("RECIPE", "--output"), "--output has no value"),
        (HERE, ("RECIPE", "--output=x", "--part", "0/2"), "deals the parts out itself"),
        (HERE, ("RECIPE", "--output=x", "--gpus-per-part=3"), "this machine shows 2 GPUs"),
        (HERE, ("RECIPE", "--output=x", "--at-once=3"), "--at-once is for scripts/slurm/trees.sh"),
        (HERE, ("RECIPE", "--output=x", "--", "--gpus=1"), "scripts/slurm/trees.sh takes them"),
        (HERE, ("RECIPE",), "found no folder to write"),
        (SLURM, ("RECIPE", "--output=x"), "--parts is missing"),
        (SLURM, ("RECIPE", "--output=x", "--parts=2", "--", "--array=0-9"), "the array follows from --parts"),
    ],
)
def test_a_wrong_request_is_refused_with_what_to_do(
    script: str, words: tuple[str, ...], said: str, recipe: Path, environment: dict[str, str]
) -> None:
    done = run(script, *[recipe if word == "RECIPE" else word for word in words], environment=environment)
    assert done.returncode == 2
    assert said in done.stderr
