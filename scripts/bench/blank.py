"""Measures what the blank picture of batches without pictures costs, as a share of training on LLaVA-like mixtures.

    make bench NAME=blank

A blank is shown where a forward pass has no picture while tower or projector trains, or where ZeRO-3 holds the parameters in parts. Its
cost is counted in two ways: by floating-point operations for LLaVA-1.5-7B (CLIP-ViT-L/336, a LLaMA of 6.5 G parameters in its layers), and
by the clock on a small model whose tower takes the same share of a packed row. How often a pass has no picture is counted on drawn lengths,
packed as training packs them. Ranks without pictures have less to do than the others anyway, so a step of many ranks takes no longer.
Results: runs/bench/blank.json.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.packing import pack

GOAL = 0.02  # of the time of a step
ROW = 4096  # tokens
PICTURE = 576  # tokens
TEXT_SHARES = (0.06, 0.25)  # LLaVA-665k; the same with a tree corpus mixed in


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model's operations depend on: layers, hidden size, parameters of all its layers."""

    layers: int
    hidden: int
    parameters: float

    def forward(self, tokens: float, length: float) -> float:
        """Operations of one forward pass: two for each parameter and token, with attention over `length` tokens on average."""
        return tokens * (2 * self.parameters + 4 * self.layers * self.hidden * length)


TOWER = Sizes(layers=24, hidden=1024, parameters=24 * 12 * 1024**2)
LLAMA = Sizes(layers=32, hidden=4096, parameters=32 * (4 * 4096**2 + 3 * 4096 * 11008))


def main() -> int:
    """Prints the table, writes the JSON; exit code 1 when a share misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000, help="samples to draw (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="times each pass runs, the fastest counts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/blank.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    measured = measure(options.runs)
    print(f"a picture against a packed row, operations: LLaVA-1.5-7B {of_packed_row():.2%}, measured model {measured['of_row']:.2%}")
    print(f"{'layout':<14}{'text':>6}{'passes without':>16}{'a blank, 7B':>14}{'a blank, clock':>16}{'cost, 7B':>12}{'cost, clock':>13}")
    rows = [one | measured_share(one, measured) for share in TEXT_SHARES for one in layouts(options.samples, share)]
    for one in rows:
        print(
            f"{one['layout']:<14}{one['text']:>6.0%}{one['without']:>16.4%}{one['blank']:>14.2%}{one['blank_clock']:>16.2%}"
            f"{one['cost']:>12.4%}{one['cost_clock']:>13.4%}"
        )
    worst = max(max(one["cost"], one["cost_clock"]) for one in rows if one["text"] == TEXT_SHARES[0])
    print(f"with {TEXT_SHARES[0]:.0%} text at most {worst:.2%} of a step, goal {GOAL:.0%}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "goal": GOAL, "measured": measured, "layouts": rows}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(worst > GOAL)


def layouts(samples: int, text_share: float) -> list[dict[str, Any]]:
    """For each layout: share of passes without a picture, a blank's operations against those of a mean pass, their product."""
    draw = np.random.default_rng(0)
    text = draw.random(samples) < text_share
    with_picture = PICTURE + draw.lognormal(np.log(238), 0.7, samples)
    lengths = np.clip(np.where(text, draw.lognormal(np.log(500), 0.8, samples), with_picture), 8, 2048).astype(np.int64)
    packing = pack(lengths, ROW, seed=0)
    found = [layout(f"packed {ROW}", packing.rows, lengths[packing.samples], text[packing.samples], text_share, padded=False)]
    for size in (1, 4, 8, 16):
        bounds = np.arange(0, samples + 1, size)
        found.append(layout(f"padded, {size}", bounds, lengths[: bounds[-1]], text[: bounds[-1]], text_share, padded=True))
    return found


def layout(name: str, bounds: np.ndarray, lengths: np.ndarray, text: np.ndarray, text_share: float, *, padded: bool) -> dict[str, Any]:
    """One line of the table; passes hold the samples between two bounds. Everything trains, as where a blank costs most."""
    pictures = np.add.reduceat(~text, bounds[:-1])
    tokens = np.maximum.reduceat(lengths, bounds[:-1]) * np.diff(bounds) if padded else np.add.reduceat(lengths, bounds[:-1])
    mean = LLAMA.forward(float(tokens.mean()), float(lengths.mean()) / 2) + pictures.mean() * picture()
    without = float((pictures == 0).mean())
    return {"layout": name, "text": text_share, "without": without, "blank": picture() / mean, "cost": without * picture() / mean}


def picture() -> float:
    """Operations of the tower for one picture, forward."""
    return TOWER.forward(PICTURE + 1, PICTURE + 1)


def of_packed_row() -> float:
    """A picture's operations against those of the language model on one packed row."""
    return picture() / LLAMA.forward(ROW, ROW / 2)


def measured_share(one: dict[str, Any], measured: dict[str, float]) -> dict[str, float]:
    """The same by the clock: a blank against a mean pass, scaled to the layout by the operations of its pass."""
    blank = measured["blank"] / measured["row"] * one["blank"] / of_packed_row()
    return {"blank_clock": blank, "cost_clock": one["without"] * blank}


def measure(runs: int) -> dict[str, float]:
    """Seconds of the core for a training pass over one row of text, and what a blank picture adds: the fastest of some runs, in turn."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    model = small_llava()
    ids = torch.randint(10, 500, (1, ROW), generator=torch.Generator().manual_seed(0))
    pixels = torch.zeros(1, 3, 336, 336)
    features = model.model.get_image_features

    def none_left(*arguments: Any, **options: Any) -> Any:
        found = features(*arguments, **options)
        found.pooler_output = [one[:0] for one in found.pooler_output]
        return found

    model.model.get_image_features = none_left

    def run(**inputs: Any) -> float:
        start = time.process_time()
        model(input_ids=ids, logits_to_keep=torch.arange(0, ROW, 5), use_cache=False, **inputs).logits.sum().backward()
        return time.process_time() - start

    def operations(**inputs: Any) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(input_ids=ids, logits_to_keep=1, use_cache=False, **inputs)
        return counter.get_total_flops()

    without, with_blank = operations(), operations(pixel_values=pixels)
    run(pixel_values=pixels)
    pairs = [(run(), run(pixel_values=pixels)) for _ in range(runs)]
    row, both = (min(times) for times in zip(*pairs, strict=True))
    return {"row": row, "blank": both - row, "spread": max(one for one, _ in pairs) / row - 1, "of_row": with_blank / without - 1}


def small_llava() -> Any:
    """A LLaVA whose tower takes the same share of a packed row's operations as LLaVA-1.5-7B's, with pictures of as many tokens."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=2, image_size=336, patch_size=14, projection_dim=32
    )
    text = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=511, vision_feature_layer=-2)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).train()


if __name__ == "__main__":
    sys.exit(main())
