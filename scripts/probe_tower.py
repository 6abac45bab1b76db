"""Linear probes on the frozen features of the Terrarium's tower, one per attribute, on held-out pictures.

    python scripts/probe_tower.py [MODEL] [--train 6000] [--test 1000] [--output FILE.json]

A probe is a multinomial logistic regression on the mean and the maximum over the picture's patch features: what the projector gets,
with nothing learned between. It exits with 1 when an attribute falls below `GOAL`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.terrarium.base import resolve
from data.terrarium.skills import samples
from model.build import load_pair

GOAL = 0.85
ATTRIBUTES: dict[str, tuple[str, Callable[[tuple[str, str]], str]]] = {
    "count": ("counting", lambda turn: turn[1].split()[2]),
    "hour": ("clock", lambda turn: turn[1][:2]),
    "minute": ("clock", lambda turn: turn[1][3:]),
    "first letter": ("word", lambda turn: turn[1][0]),
    "second letter": ("word", lambda turn: turn[1][1]),
    "third letter": ("word", lambda turn: turn[1][2]),
    "wing pattern": ("pattern", lambda turn: turn[1]),
    "texture": ("ground", lambda turn: turn[1]),
}


def features(model, processor, skill: str, split: str, size: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Pooled patch features [size, 2 x hidden] of a skill's pictures, with their questions and answers."""
    import torch

    drawn = samples(skill, split, size, seed=1)
    rows = []
    with torch.inference_mode():
        for start in range(0, size, 250):
            pictures = [sample.picture() for sample in drawn[start : start + 250]]
            pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[model.config.vision_feature_layer][:, 1:]
            rows.append(torch.cat([states.mean(1), states.amax(1)], dim=1).numpy())
    return np.concatenate(rows), [sample.rounds[0] for sample in drawn]


def probe(train: np.ndarray, train_labels: list[str], test: np.ndarray, test_labels: list[str], penalty: float = 1e-4) -> float:
    """Accuracy on the test rows of a multinomial logistic regression fitted to the train rows by L-BFGS."""
    import torch

    names = sorted(set(train_labels))
    targets = torch.tensor([names.index(label) for label in train_labels])
    mean, std = train.mean(0), train.std(0) + 1e-6
    rows, held_out = (torch.tensor((part - mean) / std, dtype=torch.float32) for part in (train, test))
    head = torch.nn.Linear(rows.shape[1], len(names))
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(head(rows), targets) + penalty * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    guesses = head(held_out).argmax(1).tolist()
    return float(np.mean([names[guess] == label for guess, label in zip(guesses, test_labels, strict=True)]))


def main() -> int:
    """Prints a line per attribute; gives 1 when one is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="terrarium", help="folder of a LLaVA-style model (default: the shipped base)")
    parser.add_argument("--train", type=int, default=6000, help="pictures a probe learns from (default: %(default)s)")
    parser.add_argument("--test", type=int, default=1000, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the accuracies as JSON")
    args = parser.parse_args()
    model, processor = load_pair(resolve(args.model))
    seen = {
        skill: [features(model, processor, skill, *part) for part in (("train", args.train), ("test", args.test))]
        for skill in {s for s, _ in ATTRIBUTES.values()}
    }
    accuracies = {}
    for name, (skill, label) in ATTRIBUTES.items():
        (train, train_turns), (test, test_turns) = seen[skill]
        accuracies[name] = probe(train, [label(turn) for turn in train_turns], test, [label(turn) for turn in test_turns])
        print(f"{name:14} {100 * accuracies[name]:5.1f} %{'' if accuracies[name] >= GOAL else f'   below {100 * GOAL:.0f} %'}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(accuracies, indent=1) + "\n")
    return 0 if min(accuracies.values()) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
