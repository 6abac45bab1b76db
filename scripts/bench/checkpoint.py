"""Measures saving and restoring a state of some 100 M trainable parameters against DeepSpeed's own checkpoint of the same engine.

    make bench NAME=checkpoint

One process, ZeRO-2, inside one run, between two steps: saving A B A B, then restoring ours, then DeepSpeed's; the best of each. Ours
includes the hashes, which DeepSpeed's has not.
What is restored is compared to what was saved. Results: runs/bench/checkpoint.json.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.terrarium.base import resolve

BYTES = 1.02 * 14  # for each trainable parameter: the goal for a state
WIDTH, DEPTH = 1024, 8


def main() -> int:
    """Prints seconds with sizes, writes the JSON; exit code 1 when a state is larger than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of saving and restoring in turns (default: %(default)s)")
    parser.add_argument("--width", type=int, default=WIDTH, help="hidden size of the model (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/checkpoint.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    folder = options.output.parent / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    measured: dict[str, Any] = {}
    train_and_measure(write_model(folder / "model", options.width), folder, options.rounds, measured)
    measured |= {"goal_bytes_per_parameter": BYTES, "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    ours, theirs = (measured["bytes_per_parameter"][name] for name in ("ours", "deepspeed"))
    print(f"{measured['parameters'] / 1e6:.0f} M trainable; bytes a parameter: ours {ours:.2f}, DeepSpeed's {theirs:.2f}")
    for what in ("save", "restore"):
        ours, theirs = (measured["seconds"][name][what] for name in ("ours", "deepspeed"))
        print(f"{what:<10} ours {min(ours):6.2f} s   DeepSpeed's {min(theirs):6.2f} s   ratio {min(ours) / min(theirs):.2f}")
    options.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder)
    print(f"written: {options.output}")
    return int(measured["bytes_per_parameter"]["ours"] > BYTES)


def write_model(folder: Path, width: int) -> Path:
    """Saves a random language model with the Terrarium's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve("terrarium"))
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=DEPTH,
        num_attention_heads=8,
        num_key_value_heads=8,
        **{name: getattr(tokenizer, name) for name in names},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_and_measure(model: Path, folder: Path, rounds: int, measured: dict[str, Any]) -> None:
    """Trains two steps; behind the first, saves and restores in turns."""
    from train import resume
    from train.config import make_recipe
    from train.run import train

    records = [{"id": number, "text": f"The Murlo number {number} lives in a warm cave."} for number in range(4)]
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    recipe = make_recipe(
        {
            "model": {"base": str(model), "preset": "llm"},
            "data": {"sources": [{"path": str(folder / "records.jsonl"), "format": "text"}]},
            "train": {"steps": 2, "batch_size": 2, "save_every": 1, "zero": "zero2", "trackers": []},
            "output": str(folder / "run"),
        }
    )
    save = resume.save
    resume.save = lambda trainer, run, step: measure(trainer, folder, rounds, measured, lambda: save(trainer, run, step))
    train(recipe, progress=False)


def measure(trainer: Any, folder: Path, rounds: int, measured: dict[str, Any], save: Callable[[], Path]) -> None:
    """Saves and restores in turns, ours and DeepSpeed's."""
    import torch

    from train import integrity, state

    engine, theirs = trainer.deepspeed, folder / "deepspeed"
    seconds: dict[str, dict[str, list[float]]] = {name: {"save": [], "restore": []} for name in ("ours", "deepspeed")}
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}

    def restore(saved: Path) -> None:
        assert integrity.damage(saved) is None
        state.GoOn(trainer, saved, trainer.state.global_step, 1).on_train_begin(trainer.args, trainer.state, trainer.control)

    saved = save()  # the first of each writes into caches that the others find warm
    engine.save_checkpoint(str(theirs))
    for _ in range(rounds):
        timed(save, seconds["ours"]["save"])
        timed(lambda: engine.save_checkpoint(str(theirs)), seconds["deepspeed"]["save"])
    for _ in range(rounds):
        timed(lambda: restore(saved), seconds["ours"]["restore"])
        assert all(torch.equal(before[name], parameter) for name, parameter in trainer.model.named_parameters())
    for _ in range(rounds):  # last: behind it DeepSpeed has lost the way from parameters to moments until the next engine
        timed(lambda: engine.load_checkpoint(str(theirs)), seconds["deepspeed"]["restore"])
    count = trainer.manifest.trainable_parameters
    sizes = {"ours": saved, "deepspeed": theirs}
    measured |= {
        "parameters": count,
        "bytes_per_parameter": {name: sum(file.stat().st_size for file in path.rglob("*.*")) / count for name, path in sizes.items()},
        "seconds": seconds,
    }


def timed(work: Callable[[], Any], seconds: list[float]) -> None:
    """Adds the wall-clock seconds of some work to a list."""
    start = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
