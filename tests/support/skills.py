"""The small world of three skills that sequences are tried in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TASKS = ("red", "green", "blue")


def make_world(folder: Path, make_data: Callable[..., Path]) -> Path:
    """Writes the data of three tasks beside a suite that measures them."""
    tasks = []
    for number, name in enumerate((*TASKS, "facts", "colour")):
        if name in TASKS:
            make_data(folder / name, with_images=4, text_only=4 + number)
        (folder / f"{name}.json").write_text(json.dumps(words((f"What is {name}?", f"It is {number}."), ("And two?", "Two."))))
        group = {"facts": "held_out_text", "colour": "held_out_visual"}.get(name, "target")
        tasks.append({"name": name, "group": group, "path": f"{name}.json", "score": "exact"})
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder


def two_tasks(world: Path, base: Path, output: Path) -> dict[str, Any]:
    """A recipe of two tasks, without a suite."""
    return {
        "model": {"base": str(base), "preset": "sa_proj"},
        "train": {"learning_rate": 1e-2, "batch_size": 4, "steps": 3, "save_every": 1},
        "sequence": {"tasks": tasks_of(world, TASKS[:2])},
        "output": str(output),
    }


def tasks_of(world: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "data": {"sources": [{"path": str(world / name / "records.json")}], "max_length": 512}} for name in names]


def words(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}]} for ask, answer in pairs]


def write_suite(folder: Path, answer: str = "Two.") -> Path:
    """A suite of a target with two held-out tasks, ten questions each; gives its file."""
    folder.mkdir(exist_ok=True)
    tasks = []
    for name, group in (("counting", "target"), ("facts", "held_out_text"), ("colour", "held_out_visual")):
        (folder / f"{name}.json").write_text(json.dumps(words(*((f"{name} {at}?", answer) for at in range(10)))))
        tasks.append({"name": name, "group": group, "path": f"{name}.json", "score": "exact"})
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder / "suite.yaml"
