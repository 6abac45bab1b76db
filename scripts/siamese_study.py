"""The siamese gate beside its companions on the Terrarium: what each learns of a new skill, what each keeps.

    python scripts/siamese_study.py [--output runs/siamese_study] [--jobs 2] [--write]

For each skill and seed: LoRA; LoRA with the gate (IMSM); the same with the gate trained on the base's own dialogues besides, which the
adapter does not see; from the first one, without training, the fixed mix of logits and WiSE-FT, each at one half and at the value that
is best on other questions than those reported. Every run takes as many steps, each with as many records of the skill. What is finished
stays.
`--write` puts tables, figure and numbers into docs/.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from train.config import RECIPES
from train.rows import tell

DOCS = Path(__file__).parents[1] / "docs"
MARKS = ("<!-- siamese study -->", "<!-- /siamese study -->")
SKILLS = {"counting": (6e-4, 240), "clock": (2e-3, 360)}  # the adapter's learning rate, steps
SEEDS = (0, 1, 2)
GATE = 10 / 3  # times the adapter's rate, as in the paper
BATCH, TREES = 16, 4  # records of the skill in a step; dialogues of the base beside them
TEST, DEV, DEV_SEED = 60, 30, 1000  # questions of each task; the seed of those that choose
GRID = "0,0.25,0.5,0.75,1"
SWEEPS = {"wise-ft": "alpha", "mix-logits": "share"}
WAYS: dict[str, list[str]] = {
    "LoRA": [],
    "IMSM": ["--model.method", "siamese"],
    "IMSM, gate on trees": ["--model.method", "siamese"],
}
HEAD = ("way", "{skill}, %", "text, points", "images, points", "number tokens, %", "chosen")


def call(*words: str | Path) -> None:
    """One `perennial` command; stops where it fails."""
    from train.cli import main

    code = main([str(word) for word in words])
    if code != 0:
        raise SystemExit(code)


def one(skill: str, seed: int, output: Path) -> None:
    """Everything for a skill and a seed."""
    from data.terrarium.world import write_world
    from train.run import status

    folder = output / f"{skill}-{seed}"
    test = write_world(folder / "world", test_size=TEST, train_size=2000, seed=seed, skills=(skill,))
    dev = write_world(folder / "dev", test_size=DEV, train_size=1, seed=DEV_SEED + seed, skills=(skill,))
    for way, words in WAYS.items():
        run = folder / place(way)
        if status(run) != "done":
            call("train", RECIPES / "siamese.yaml", "--model.method", "plain", *words, *settings(way, folder, skill, seed), "--output", run)
        if not (run / "evaluation.json").is_file():
            call("evaluate", run, "--suite", test, "--output", run)
    for command, knob in SWEEPS.items():
        suites = ("--suite", test, "--dev-suite", dev, "--target", skill)
        call(command, folder / place("LoRA"), *suites, f"--{knob}", GRID, "--output", folder / command)


def settings(way: str, folder: Path, skill: str, seed: int) -> list[str]:
    """What a way's recipe says beyond train/recipes/siamese.yaml."""
    batch = BATCH + (TREES if way == "IMSM, gate on trees" else 0)
    sources: list[dict[str, Any]] = [{"path": str(folder / "world" / "train" / f"{skill}.json"), "share": BATCH / batch}]
    if batch > BATCH:
        sources.append({"path": str(folder.parent / "trees"), "format": "tree", "share": TREES / batch, "trains": "gate"})
    rate, steps = SKILLS[skill]
    parts = {} if way == "LoRA" else {"gate": {"learning_rate": GATE * rate}}
    return [
        *("--data.sources", json.dumps(sources), "--train.batch_size", str(batch), "--train.seed", str(seed)),
        *("--train.learning_rate", str(rate), "--train.steps", str(steps), "--train.parts", json.dumps(parts)),
    ]


def place(way: str) -> str:
    """A way's folder."""
    return way.lower().replace(", ", "_").replace(" ", "_")


def rows(skill: str, seed: int, output: Path) -> list[dict[str, Any]]:
    """Numbers of every way: shares of 1, changes against the base."""
    folder = output / f"{skill}-{seed}"
    sweeps = {command: json.loads((folder / command / "sweep.json").read_text()) for command in SWEEPS}
    points = {one["name"]: one for one in sweeps["wise-ft"]["points"]}
    before = json.loads((folder / "wise-ft" / points["base"]["evaluation"]).read_text())
    found = [number("base", points["base"]), number("LoRA", points["tuned"])]
    for way in list(WAYS)[1:]:
        after = json.loads((folder / place(way) / "evaluation.json").read_text())
        changes = {group: after["groups"][group] - before["groups"][group] for group in ("held_out_text", "held_out_visual")}
        number_tokens = {"number_token_probability": after["number_token_probability"]}
        found.append(number(way, {"target": after["tasks"][skill]["accuracy"], **changes, **number_tokens}))
    for command, title in (("mix-logits", "fixed mix"), ("wise-ft", "WiSE-FT")):
        swept = {one["value"]: one for one in sweeps[command]["points"] if one["value"] is not None}
        best = max((one for one in sweeps[command]["dev_points"] if one["value"] is not None), key=worth)["value"]
        found.append(number(f"{title} at one half", swept[0.5]))
        found.append(number(f"{title}, chosen", swept[best], best))
    return found


def worth(point: dict[str, Any]) -> float:
    """What a value is chosen by: the target's accuracy with what is kept."""
    return float(point["target"] + point["retention"])


def number(way: str, point: dict[str, Any], chosen: float | None = None) -> dict[str, Any]:
    """A row."""
    names = ("target", "held_out_text", "held_out_visual", "number_token_probability")
    return {"way": way, "chosen": chosen} | {name: point[name] for name in names}


def summary(output: Path) -> dict[str, list[dict[str, Any]]]:
    """For each skill a row for each way, with the values of all seeds."""
    found = {}
    for skill in SKILLS:
        by_seed = [rows(skill, seed, output) for seed in SEEDS]
        found[skill] = [
            {key: [row[key] for row in ways] for key in ways[0]} | {"way": ways[0]["way"]} for ways in zip(*by_seed, strict=True)
        ]
    return found


def table(skill: str, found: Sequence[dict[str, Any]]) -> str:
    """Mean (smallest to largest) over the seeds, in Markdown."""
    lines = [" | ".join(HEAD).format(skill=skill), " | ".join(["---", *["---:"] * (len(HEAD) - 1)])]
    for row in found:
        cells = [spread(row["target"], "{:.0f}"), *(spread(row[key], "{:+.1f}") for key in ("held_out_text", "held_out_visual"))]
        chosen = [value for value in row["chosen"] if value is not None]
        cells += [spread(row["number_token_probability"], "{:.2f}"), ", ".join(f"{value:g}" for value in chosen)]
        lines.append(" | ".join([row["way"], *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """Mean with range, in hundredths."""
    shown = [form.format(100 * value) for value in (mean(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The skill's accuracy over what is kept: a small point for each seed, a large one for their mean."""
    import matplotlib
    from matplotlib.figure import Figure

    from data.figures import COLOURS, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        panels = figure.subplots(1, len(found), sharey=True)
        for panel, (skill, ways) in zip(panels, found.items(), strict=True):
            for index, row in enumerate(ways):
                kept = [50 * (text + images) for text, images in zip(row["held_out_text"], row["held_out_visual"], strict=True)]
                learned = [100 * value for value in row["target"]]
                look = {"color": COLOURS[index % len(COLOURS)], "marker": "os^Dv<>P"[index % 8]}
                panel.scatter(kept, learned, s=16, alpha=0.5, linewidth=0, **look)
                panel.scatter(mean(kept), mean(learned), s=80, label=row["way"] if panel is panels[0] else None, **look)
            panel.set(title=skill, xlabel="retention: points on held-out tasks")
        panels[0].set_ylabel("new skill: correct, %")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    """Runs what is missing, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/siamese_study"), help="folder for everything (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="skills and seeds at once, a thread each (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/siamese_study.json, .png, the tables in docs/siamese.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below
    if not (arguments.output / "trees" / "dialogues.json").exists():
        call("generate", RECIPES / "tree_demo.yaml", "--output", arguments.output / "trees")
    pairs = [(skill, seed) for seed in SEEDS for skill in SKILLS]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for skill, seed, job in [(*pair, pool.submit(one, *pair, arguments.output)) for pair in pairs]:
            job.result()
            tell(f"{skill}, seed {seed}: done", progress=True)
    found = summary(arguments.output)
    text = "\n\n".join(table(skill, ways) for skill, ways in found.items())
    print(text)
    if arguments.write:
        (DOCS / "siamese_study.json").write_text(json.dumps(found, indent=1) + "\n")
        page = DOCS / "siamese.md"
        before, rest = page.read_text().split(MARKS[0])
        page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
        draw(found, DOCS / "siamese_study.png")


if __name__ == "__main__":
    main()
