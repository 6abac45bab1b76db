"""`perennial base`: makes the Terrarium's base model again, from nothing, in four stages of one to three parts."""

import argparse
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

WORK = Path("runs/base")  # the four recipes read and write here
STAGES = ("tower", "census", "tiles", "language", "align", "instruct")
SEED = 0
VOCABULARY = 1024
TEXT_SKILLS = {"facts": 12_000, "sums": 12_000, "opposites": 3_000, "stories": 20_000, "instructions": 24_000, "dialogues": 12_000}
DATA = {
    "crowds": {"crowd": 100_000},
    "census": {"census": 40_000},
    "tiles": {"tiles": 40_000},
    "language": TEXT_SKILLS,
    "align": {"captions": 12_000},
    "visual": {"talks": 40_000, "colour": 4_000, "shape": 2_000, "place": 4_000, "comparison": 8_000, "captions": 6_000},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `perennial base`."""
    parser.add_argument("--output", type=Path, default=Path("data/terrarium/base"), help="where the models go (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the samples and steps, to try the whole path quickly (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the stages that are not finished yet, stores the models in bfloat16, scores them as stored, writes the card."""
    if not 0 < args.scale <= 1:
        raise ValueError(f"--scale: got {args.scale}, expected more than 0 and at most 1")
    start = time.perf_counter()
    prepare(args.scale)
    seconds = {stage: train_stage(stage, args.scale) for stage in STAGES}
    store(args.output)
    scores = score(args.output, max(8, round(90 * args.scale)))
    write_card(args.output, seconds, scores)
    print(f"the base is in {args.output} after {(time.perf_counter() - start) / 60:.0f} minutes; its card: {args.output / 'README.md'}")
    return 0


def prepare(scale: float = 1.0) -> None:
    """Writes the stages' data, the two tokenizers and the two blank models into `WORK`; keeps what is there."""
    from data.terrarium.skills import mixture
    from data.terrarium.write import write

    for name, skills in DATA.items():
        if not (WORK / "data" / f"{name}.json").exists():
            drawn = mixture({skill: max(8, int(size * scale)) for skill, size in skills.items()}, SEED)
            write(drawn, WORK / "data" / f"{name}.json", progress=True, total=len(drawn))
    blank("blank/tower", ["crowds"], "captioner")
    blank("blank/language", ["language", "visual"], "language")


def blank(name: str, files: list[str], kind: str) -> None:
    """Saves a randomly initialised model with a tokenizer that learned the words of `files`."""
    from data.readers import read
    from data.terrarium.tokenizer import build_processor, train_tokenizer
    from data.terrarium.visual import target_texts
    from model.miniature import CAPTIONER, LANGUAGE, PATCH, miniature

    folder = WORK / name
    if folder.exists():
        return
    texts = [turn.text.removeprefix("<image>\n") for file in files for one in read(WORK / "data" / f"{file}.json") for turn in one.turns]
    if kind == "language":
        texts += target_texts() * 20  # the words of the target skills' questions, so that none is spelled out; not their answers
    tokenizer = train_tokenizer(texts, VOCABULARY)
    partial = folder.with_name(f"{folder.name}.partial")
    miniature(tokenizer, SEED, CAPTIONER if kind == "captioner" else LANGUAGE).save_pretrained(partial)
    build_processor(tokenizer, PATCH).save_pretrained(partial)
    partial.replace(folder)


def train_stage(stage: str, scale: float = 1.0) -> float:
    """Runs one stage's recipe unless it is finished, links its checkpoint as `runs/base/STAGE/model`; gives its seconds."""
    from train.config import load_recipe
    from train.run import train

    folder = WORK / stage
    if not (folder / "model").exists():
        recipe = load_recipe(Path(__file__).parent / "recipes" / f"base_{stage}.yaml")
        if scale < 1:
            steps = max(2, int((recipe.train.steps or 0) * scale))
            recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": steps, "batch_size": 8})})
        result = train(recipe)
        (folder / "model").symlink_to(result.checkpoint.relative_to(folder), target_is_directory=True)
    return float(json.loads((folder / "run.json").read_text())["seconds"])


def store(output: Path) -> None:
    """Writes base, aligned model and language-stage backbone in bfloat16 under `output`; what was measured on other weights goes."""
    import torch

    from model.build import load_pair
    from model.language import save

    before = _digest(output / "model.safetensors")
    for stage, name in (("instruct", "."), ("align", "aligned")):
        model, processor = load_pair(WORK / stage / "model")
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
    if _digest(output / "model.safetensors") != before:
        for name in EVIDENCE:
            (output / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(output / "language", ignore_errors=True)
    save(*load_pair(WORK / "language" / "model"), output / "language", torch.bfloat16)


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def score(output: Path, size: int) -> dict[str, Any]:
    """Evaluates the stored base on `size` test samples of every skill."""
    from data.terrarium.world import write_world
    from model.build import load_pair
    from train.evaluate.evaluation import evaluate, save
    from train.evaluate.tasks import load_suite

    suite = write_world(WORK / "world", test_size=size, skills=(), seed=SEED)
    evaluation = evaluate(*load_pair(output, attention="eager"), load_suite(suite))
    save(evaluation, WORK / "evaluation")
    return evaluation


def write_card(output: Path, seconds: dict[str, float], evaluation: dict[str, Any]) -> None:
    """Writes the base's model card from what was measured."""
    import torch
    import transformers

    from model.build import load_pair

    model, _ = load_pair(output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = [f"| {name} | {task['group']} | {100 * task['accuracy']:.1f} | {task['n']} |" for name, task in evaluation["tasks"].items()]
    means = [f"| **{group}** | mean | **{100 * mean:.1f}** | |" for group, mean in evaluation["groups"].items()]
    times = "\n".join(f"| {stage} | {seconds[stage] / 60:.1f} |" for stage in STAGES)
    (output / "README.md").write_text(
        CARD.format(
            parameters=f"{parameters:,}",
            seed=SEED,
            times=times,
            scores="\n".join(rows + means),
            probability=evaluation["number_token_probability"],
            versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
            evidence="".join(evidence(output, name) for name in EVIDENCE),
        )
    )


def evidence(output: Path, name: str) -> str:
    """A table of what a script measured on the stored base (`OUTPUT/NAME.json`); nothing where it was not run."""
    file = output / f"{name}.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text())
    return EVIDENCE[name].format(rows="\n".join(f"| {one} | {100 * value:.1f} |" for one, value in found.items()))


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, synthetic]
---
# The Terrarium's base model

A LLaVA of {parameters} parameters (CLIP-ViT tower, two-layer projector, LLaMA backbone) that lives in a small synthetic world of
invented creatures, sums, stories and drawn scenes. It is stored in bfloat16 and was scored as stored. `aligned/` is the model before
instruction tuning, `language/` its backbone after language pre-training, before it saw any picture. Training data and weights are made by
this repository alone: `make base` writes all of it again.

Seed of everything: {seed}. Made with {versions}.

| stage | minutes on two CPU cores |
|---|---|
{times}

Greedy answers on the test sets, share right in percent (`perennial base` prints and writes this table):

| skill | suite | right | of |
|---|---|---|---|
{scores}

Probability of number tokens on unrelated questions: {probability:.4f}.

The five target skills (counting, clock, pattern, word, texture) are what the base has *not* learned; chance is about 11, 1, 12, 2 and 50
percent. Its tower has seen them, in crowded scenes, as CLIP has seen the things that a LLaVA is later tuned on.
Its first stage has three parts (tower, census, tiles); the header of each recipe in `train/recipes/base_*.yaml` says why.
{evidence}"""
EVIDENCE = {
    "probes": """
Linear probes on the frozen tower's features, right on held-out pictures in percent (`scripts/probe_tower.py`):

| attribute | right |
|---|---|
{rows}
""",
    "targets": """
Language model tuned on one target skill alone, the tower frozen, right on its test in percent (`scripts/learn_targets.py`):

| skill | right |
|---|---|
{rows}
""",
}
