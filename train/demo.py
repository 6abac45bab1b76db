"""`perennial demo`: the whole path in miniature, from growing trees to the report."""

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parent / "recipes"
TREE_SHARE = 0.25  # of the samples in every batch, for the ways that mix the tree corpus in
TARGET = "counting"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of tuning: a preset at a learning rate, with or without the tree corpus in its batches."""

    name: str
    preset: str
    learning_rate: float
    group: str
    trees: bool = False

    @property
    def folder(self) -> str:
        return f"{self.name.replace(' + ', '_')}_{self.learning_rate:g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `perennial demo`."""
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for everything it makes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws data, order and trees (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="optimizer steps of each tuning (default: the recipe's)")
    parser.add_argument("--test-size", type=int, default=40, help="test questions of each skill (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Grows trees, tunes in every way, evaluates, reports; what is finished already is kept."""
    from train.rates import load_rates

    start = time.perf_counter()
    try:
        rates = load_rates()
        demo = Demo(folder=args.output, seed=args.seed, steps=args.steps, test_size=args.test_size)
        base = demo.base_evaluation()
        demo.grow()
        runs = [demo.tune(way) for way in ways(rates.matched, rates.fixed)]
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished parts are kept in {args.output}; the same command goes on from there") from None
    report = demo.report(base, runs)
    print(f"\nreport: {report}  ({time.perf_counter() - start:.0f} s)")
    return 0


def ways(matched: dict[str, float], fixed: float) -> list[Way]:
    """Four ways of tuning, at rates matched by what they learn, then at one fixed rate."""
    found = []
    for group, rates in (("matched", matched), ("fixed rate", dict.fromkeys(matched, fixed))):
        found += [
            Way(name="full", preset="full", learning_rate=rates["full"], group=group),
            Way(name="full + trees", preset="full", learning_rate=rates["full"], group=group, trees=True),
            Way(name="sa_proj", preset="sa_proj", learning_rate=rates["sa_proj"], group=group),
            Way(name="mlp_gate_up", preset="mlp_gate_up", learning_rate=rates["mlp_gate_up"], group=group),
        ]
    return found


@dataclass(kw_only=True)
class Demo:
    """Runs the parts of the demo inside one folder, each at most once.

    Attributes:
        folder: where everything goes.
        seed: draws data, order and trees.
        steps: optimizer steps of each tuning; None for the recipe's.
        test_size: test questions of each skill.
    """

    folder: Path
    seed: int = 0
    steps: int | None = None
    test_size: int = 40

    def __post_init__(self) -> None:
        from data.terrarium.world import write_world

        print("1/4 the world: pictures, questions, answers", flush=True)
        self.suite = write_world(self.folder / "world", test_size=self.test_size, seed=self.seed, skills=(TARGET,))

    def base_evaluation(self) -> dict[str, Any]:
        """What the base answers before any tuning."""
        from data.terrarium.base import resolve

        return self._evaluated(resolve("terrarium"), self.folder / "base")

    def grow(self) -> Path:
        """Lets the base write dialogues; gives the file of the corpus."""
        from model.build import load
        from train.config import load_recipe
        from train.generate import generate

        corpus = self.folder / "trees" / "dialogues.json"
        if not corpus.exists():
            print("2/4 the base writes down what it knows", flush=True)
            recipe = load_recipe(RECIPES / "tree_demo.yaml", ["--tree.seed", str(self.seed)])
            assert recipe.model is not None, "the recipe names its model"
            generate(recipe, *load(recipe.model, self.seed), corpus.parent)
        return corpus

    def tune(self, way: Way) -> dict[str, Any]:
        """Tunes in one way and evaluates; gives the report's record of the run."""
        from data.atomic import write_json
        from train.run import train

        recipe = self.recipe(way)
        folder = Path(recipe.output)
        summary, fingerprint = folder / "summary.json", _fingerprint(recipe.model_dump(mode="json"), self.test_size)
        if summary.exists():
            kept = json.loads(summary.read_text())
            if kept["fingerprint"] == fingerprint:
                return kept | {"group": way.group}
        print(f"3/4 tune: {way.name} at learning rate {way.learning_rate:g}", flush=True)
        result = train(recipe)
        evaluation = self._evaluated(result.checkpoint, folder, again=True)
        manifest = json.loads((folder / "trainable.json").read_text())
        record = asdict(way) | {
            "fingerprint": fingerprint,
            "target_task": TARGET,
            "steps": recipe.train.steps,
            "batch_size": recipe.train.batch_size,
            "text_share": recipe.data.text_share or 0.0,
            "trainable_parameters": manifest["trainable_parameters"],
            "total_parameters": manifest["total_parameters"],
            "seconds_train": result.seconds,
            "seconds_evaluate": evaluation["seconds"],
            "evaluation": evaluation,
        }
        write_json(summary, record)
        return record

    def recipe(self, way: Way) -> Any:
        """The demo's recipe with what this way changes."""
        from train.config import make_recipe

        values = yaml.safe_load((RECIPES / "demo.yaml").read_text())
        sources = [{"path": str(self.folder / "world" / "train" / f"{TARGET}.json")}]
        if way.trees:
            sources.append({"path": str(self.grow()), "loss_on": "all"})
        values["model"]["preset"] = way.preset
        values["data"] |= {"sources": sources, "text_share": TREE_SHARE if way.trees else None}
        values["train"] |= {"learning_rate": way.learning_rate, "seed": self.seed} | ({"steps": self.steps} if self.steps else {})
        values["output"] = str(self.folder / "ways" / way.folder)
        return make_recipe(values, where="demo.yaml")

    def report(self, base: dict[str, Any], runs: list[dict[str, Any]]) -> Path:
        """Prints the table, writes the report; gives the path of its page."""
        from train.evaluate.report import render, table

        print("4/4 report\n", flush=True)
        print(table(runs, base))
        context = {"seed": self.seed, "steps": runs[0]["steps"], "batch size": runs[0]["batch_size"], "tree share": TREE_SHARE}
        return render(runs, base, self.folder / "report", title="Teaching the Terrarium's base to count", context=context)

    def _evaluated(self, checkpoint: Path, folder: Path, again: bool = False) -> dict[str, Any]:
        from model.build import load_pair
        from train.evaluate.evaluation import FILE_NAME, evaluate, load, save
        from train.evaluate.tasks import load_suite

        if again or not (folder / FILE_NAME).exists():
            save(evaluate(*load_pair(checkpoint, attention="eager"), load_suite(self.suite), batch_size=128), folder)
        return load(folder)


def _fingerprint(recipe: dict[str, Any], test_size: int) -> str:
    return hashlib.sha256(json.dumps([recipe, test_size], sort_keys=True).encode()).hexdigest()
