"""Does mixing trees in reduce what full tuning forgets? A table over seeds, in docs/trees.md.

    python scripts/tree_table.py

Tunes the Terrarium's base on counting with `full`, same steps and batch, a quarter of each batch from a corpus: none, trees of each shape,
or the original training text (the upper bound). The learning rate is one at which text is forgotten within two minutes. Finished parts in
the output folder are kept. Each cell is the mean over the seeds, with the smallest and the largest value.
"""

import argparse
import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- tree table -->", "<!-- /tree table -->")
SIZE = 400  # dialogues of every corpus
SHARE = 0.25  # of the samples in every batch
RATE = 1e-3
GROUPS = {"target": "counting, %", "held_out_text": "text, %", "held_out_visual": "images, %"}
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"shape": "wide", "children": [SIZE, 1, 1, 1]},
    "balance": {"shape": "balance", "children": [SIZE // 10, 1, 10, 1]},
    "talk": {"shape": "talk", "children": [SIZE, 1, 1, 1]},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mixture: a corpus, and which of its turns carry loss."""

    corpus: str
    loss_on: str = "all"

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.corpus if self.corpus == "none" else f"{self.corpus}, loss on {'every turn' if self.loss_on == 'all' else 'answers'}"


ROWS = (
    Row(corpus="none"),
    Row(corpus="wide"),
    Row(corpus="wide", loss_on="assistant"),
    Row(corpus="balance"),
    Row(corpus="talk"),
    Row(corpus="original text"),
)


class Table:
    """The runs of one seed, each made at most once."""

    def __init__(self, folder: Path, seed: int, test_size: int, steps: int) -> None:
        from data.terrarium.world import write_world

        self.folder, self.seed, self.steps = folder / f"seed-{seed}", seed, steps
        self.suite = write_world(self.folder / "world", test_size=test_size, seed=seed, skills=("counting",))

    def before(self) -> dict[str, Any]:
        """Shares right before tuning."""
        from data.terrarium.base import resolve

        return self._evaluated(resolve("terrarium"), self.folder / "base")

    def corpus(self, name: str) -> Path:
        """The folder of a tree, or the file of the original text."""
        from data.terrarium.skills import SUITES, mixture
        from data.terrarium.write import write
        from model.build import load
        from train.config import make_recipe
        from train.generate import generate

        if name not in SHAPES:
            text = SUITES["held_out_text"]
            drawn = mixture({skill: SIZE // len(text) + 1 for skill in text}, self.seed)[:SIZE]
            return write(drawn, self.folder / "original.json")
        tree = {**SHAPES[name], "max_tokens": [48, 64], "dedup": {"embeddings": "none"}, "seed": self.seed}
        recipe = make_recipe({"model": {"base": "terrarium"}, "tree": tree}, where="tree_table")
        assert recipe.model is not None
        generate(recipe, *load(recipe.model, 0), self.folder / name)
        return self.folder / name

    def run(self, row: Row) -> dict[str, Any]:
        """Shares right after tuning with a corpus."""
        from train.config import make_recipe
        from train.run import train

        folder = self.folder / "runs" / row.name.replace(", ", "_").replace(" ", "_")
        if not (folder / "evaluation.json").exists():
            sources: list[dict[str, Any]] = [{"path": str(self.folder / "world" / "train" / "counting.json")}]
            if row.corpus != "none":
                format = "tree" if row.corpus in SHAPES else "llava"
                sources.append({"path": str(self.corpus(row.corpus)), "format": format, "loss_on": row.loss_on})
            recipe = {
                "model": {"base": "terrarium", "preset": "full", "attention": "eager"},
                "data": {"sources": sources, "max_length": 256} | ({"text_share": SHARE} if len(sources) > 1 else {}),
                "train": {"learning_rate": RATE, "batch_size": 16, "steps": self.steps, "precision": "auto", "seed": self.seed},
                "output": str(folder),
            }
            self._evaluated(train(make_recipe(recipe, where="tree_table")).checkpoint, folder)
        return self._evaluated(folder, folder)

    def facts(self, name: str) -> dict[str, Any]:
        """How much of a corpus the Terrarium's world can decide, and how much of that is right."""
        from data.config import SourceConfig
        from data.conversation import Conversation
        from data.readers import stream
        from data.terrarium.check import judge_dialogue

        source = SourceConfig(path=str(self.corpus(name)), format="tree" if name in SHAPES else "llava")
        verdicts = []
        for one in stream(source):
            assert isinstance(one, Conversation)
            texts = [turn.text for turn in one.turns if turn.role != "system"]
            verdicts += judge_dialogue(list(zip(texts[::2], texts[1::2], strict=True)))
        decided = [verdict for verdict in verdicts if verdict is not None]
        return {"decided": len(decided) / len(verdicts), "right": sum(decided) / len(decided)}

    def _evaluated(self, checkpoint: Path, folder: Path) -> dict[str, Any]:
        from model.build import load_pair
        from train.evaluate.evaluation import FILE_NAME, evaluate, load, save
        from train.evaluate.tasks import load_suite

        if not (folder / FILE_NAME).exists():
            save(evaluate(*load_pair(checkpoint, attention="eager"), load_suite(self.suite), batch_size=128), folder)
        return dict(load(folder)["groups"])


def markdown(found: dict[str, Any]) -> str:
    """Both tables: what is kept, then what the corpora hold."""
    lines = [["corpus", *GROUPS.values()], ["---"] + ["---:"] * len(GROUPS)]
    lines += [[name, *(spread([one[group] for one in seeds]) for group in GROUPS)] for name, seeds in found["rows"].items()]
    facts = [["corpus", "answers that the world decides, %", "right of these, %"], ["---", "---:", "---:"]]
    facts += [[name, *(spread([one[key] for one in seeds]) for key in ("decided", "right"))] for name, seeds in found["facts"].items()]
    return "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in table) for table in (lines, facts))


def spread(values: Sequence[float]) -> str:
    """Mean (smallest to largest) in percent."""
    mean, low, high = (f"{100 * value:.1f}" for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Makes every run, then writes docs/trees.json with the tables in docs/trees.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/tree_table"), help="folder for everything it makes (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of each tuning (default: %(default)s)")
    parser.add_argument("--test-size", type=int, default=40, help="test questions of each skill (default: %(default)s)")
    args = parser.parse_args()
    tables = [Table(args.output, seed, args.test_size, args.steps) for seed in args.seeds]
    rows = {"before tuning": [table.before() for table in tables]} | {row.name: [table.run(row) for table in tables] for row in ROWS}
    facts = {name: [table.facts(name) for table in tables] for name in (*SHAPES, "original text")}
    found = {"date": datetime.date.today().isoformat(), "seeds": args.seeds, "learning_rate": RATE, "rows": rows, "facts": facts}
    (ROOT / "docs" / "trees.json").write_text(json.dumps(found, indent=1) + "\n")
    seeds = ", ".join(map(str, args.seeds))
    note = f"Written by `scripts/tree_table.py` on {found['date']}, seeds {seeds}: mean (smallest to largest)."
    page = ROOT / "docs" / "trees.md"
    pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{MARKS[0]}\n{note}\n\n{markdown(found)}\n{MARKS[1]}", page.read_text()))
    print(markdown(found))


if __name__ == "__main__":
    main()
