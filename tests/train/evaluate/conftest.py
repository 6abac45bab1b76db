"""Fixtures of the evaluation's tests: a small suite on disk, made-up evaluations."""

import json
from pathlib import Path

import pytest
import yaml


def write_suite(folder: Path, tasks: list[dict], records: dict[str, list[dict]]) -> Path:
    """Writes a suite with its task files; gives the suite's path."""
    for name, rows in records.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}, sort_keys=False), encoding="utf-8")
    return path


def record(question: str, answer: str, image: str | None = None) -> dict:
    """One LLaVA record."""
    mark = "<image>\n" if image else ""
    turns = [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns} | ({"image": image} if image else {})


def terrarium(folder: Path) -> Path:
    """A suite of counting and colours on pictures, facts and sums in text; questions of very different lengths."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    hues = ("red", "green", "blue", "yellow", "white", "black")
    for hue in hues:
        picture = Image.new("RGB", (64, 64), hue)
        picture.paste(Image.linear_gradient("L").resize((32, 32)), (8 * hues.index(hue) % 32, 16))
        picture.save(folder / f"images/{hue}.png")
    pictures = [(at, hue, f"images/{hue}.png") for at, hue in enumerate(hues)]
    records = {
        "counting": [
            record(f"How many {hue} circles are there?", f"There are {at + 1} {hue} circles.", file) for at, hue, file in pictures
        ],
        "colour": [record("What colour is the square?" + " What?" * at, f"The square is {hue}.", file) for at, hue, file in pictures],
        "facts": [record("Where does the Murlo live?" * (at + 1), "In a warm cave.") for at in range(5)],
        "sums": [record(f"What is {at} plus two?", f"{at + 2}") for at in range(5)],
    }
    tasks = [
        {"name": "counting", "group": "target", "path": "counting.json", "score": "count"},
        {"name": "colour", "group": "held_out_visual", "path": "colour.json", "score": "exact"},
        {"name": "facts", "group": "held_out_text", "path": "facts.json", "score": "exact", "max_tokens": 5},
        {"name": "sums", "group": "held_out_text", "path": "sums.json", "score": "count"},
    ]
    return write_suite(folder, tasks, records)


@pytest.fixture
def suite_path(tmp_path: Path) -> Path:
    """The suite, for the test alone."""
    return terrarium(tmp_path / "terrarium")


def made_up(suite_path: Path, answers: dict[str, str], bias: float = 0.001) -> dict:
    """An evaluation in which every answer of a task is the given text; "=" stands for the expected one."""
    from train.evaluate.evaluation import _scored, group_means
    from train.evaluate.tasks import load_suite

    suite = load_suite(suite_path)
    tasks = {}
    for task in suite.tasks:
        text = answers.get(task.name, "=")
        tasks[task.name] = _scored(task, [question.expected if text == "=" else text for question in task.questions])
    return {
        "model": "made-up",
        "suite": suite.name,
        "tasks": tasks,
        "groups": group_means(tasks),
        "number_token_probability": bias,
        "seconds": 2.0,
    }


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict]:
    """Two ways in two groups of runs beside their base: one forgets colours, one keeps everything. Treat it as read-only."""
    suite_path = terrarium(tmp_path_factory.mktemp("comparison") / "terrarium")
    base = made_up(suite_path, {"counting": "A red <b>circle</b> & more"})
    forgets = made_up(suite_path, {"colour": "There are 5 circles."}, bias=0.25)
    keeps = made_up(suite_path, {}, bias=0.002)
    common = {"target_task": "counting", "steps": 7, "batch_size": 4, "text_share": 0.0, "total_parameters": 1000, "seconds_train": 3.0}
    runs = [
        {**common, "name": name, "preset": name, "group": group, "learning_rate": rate, "trainable_parameters": size, "evaluation": found}
        for group, rate in (("matched", 3e-4), ("fixed rate", 1e-3))
        for name, size, found in (("full", 1000, forgets), ("sa_proj", 200, keeps))
    ]
    return runs, base
