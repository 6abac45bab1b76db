"""Writes the Terrarium's test suite with the training sets of its target skills."""

import hashlib
from pathlib import Path

import yaml

from data.atomic import write_text
from data.terrarium.sample import TEST_SIZE, TRAIN_SIZE, Sample
from data.terrarium.skills import SUITES, samples
from data.terrarium.visual import TARGET_SKILLS
from data.terrarium.write import write

SCORES = {"counting": "count", "clock": "clock", "pattern": "letter", "word": "word", "texture": "yes_no"}


def write_world(
    folder: Path, *, test_size: int = TEST_SIZE, train_size: int = TRAIN_SIZE, seed: int = 0, skills: tuple[str, ...] | None = None
) -> Path:
    """Writes `suite.yaml`, `test/SKILL.json` for every skill and `train/SKILL.json` for target skills.

    What is there already is kept when it was written with the same numbers by the same code.

    Args:
        folder: where to write.
        test_size: test samples of each skill.
        train_size: training samples of each target skill.
        seed: chooses the samples; the split between train and test does not depend on it.
        skills: target skills to write training sets for; all by default.

    Returns:
        The path of `suite.yaml`.

    Raises:
        ValueError: a skill is unknown or has fewer test samples than asked for; or a test sample is also a training sample.
    """
    wanted = tuple(TARGET_SKILLS) if skills is None else skills
    stamp = folder / "world.yaml"
    made = {"code": _code(), "test_size": test_size, "train_size": train_size, "seed": seed, "train": list(wanted)}
    suite = folder / "suite.yaml"
    if stamp.exists() and yaml.safe_load(stamp.read_text()) == made:
        return suite
    tasks = []
    for group, members in SUITES.items():
        for skill in members:
            test = samples(skill, "test", test_size, seed)
            write(test, folder / "test" / f"{skill}.json")
            if skill in wanted:
                train = samples(skill, "train", train_size, seed)
                check_disjoint(train, test)
                write(train, folder / "train" / f"{skill}.json")
            tasks.append({"name": skill, "group": group, "path": f"test/{skill}.json", "score": SCORES.get(skill, "exact")})
    write_text(suite, yaml.safe_dump({"tasks": tasks}, sort_keys=False))
    write_text(stamp, yaml.safe_dump(made))
    return suite


def check_disjoint(train: list[Sample], test: list[Sample]) -> None:
    """Raises ValueError naming a sample that stands in both lists."""
    shared = {sample.key for sample in train} & {sample.key for sample in test}
    if shared:
        raise ValueError(
            f"{len(shared)} samples are in train and in test, the first is {min(shared)!r}; write both from one version of the world"
        )


def _code() -> str:
    """Hash of the code that draws and writes, so that a changed world is written anew."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
