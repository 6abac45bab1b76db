"""Sweeps learning rates for the demo's presets; writes train/demo_rates.yaml.

    python scripts/sweep_demo_rates.py [--goal 0.5] [--fixed 1e-3] [--seed 100]

Every preset is tuned on counting with the demo's recipe at each rate of a grid. The demo then takes for each preset the smallest rate that
reaches the goal, so that presets are compared by what they lose at equal learning, and beside it one fixed rate for all.
"""

import argparse
from pathlib import Path

import yaml

from train.demo import TARGET, Demo, Way
from train.rates import FILE, choose

GRID = {
    "full": (1e-4, 1.5e-4, 2e-4, 3e-4),
    "sa_proj": (3e-4, 5e-4, 7e-4),
    "mlp_gate_up": (3e-4, 5e-4, 7e-4),
}


def main() -> None:
    """Runs the grid (what is finished is kept), prints a line per run, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goal", type=float, default=0.5, help="target accuracy at which presets are compared (default: %(default)s)")
    parser.add_argument("--fixed", type=float, default=1e-3, help="the rate that all presets share (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100, help="not one of the demo's own (default: %(default)s)")
    parser.add_argument(
        "--preset", choices=GRID, help="only this one, and no file: to share the work among processes; run it whole afterwards"
    )
    args = parser.parse_args()
    demo = Demo(folder=Path("runs/sweep"), seed=args.seed)
    demo.base_evaluation()
    rows = []
    for preset in [args.preset] if args.preset else GRID:
        for rate in GRID[preset]:
            run = demo.tune(Way(name=preset, preset=preset, learning_rate=rate, group="sweep"))
            groups = run["evaluation"]["groups"]
            target = run["evaluation"]["tasks"][TARGET]["accuracy"]
            row = {"preset": preset, "learning_rate": rate, "target": target}
            rows.append(row | {name: round(groups[name], 4) for name in ("held_out_text", "held_out_visual")})
            print(rows[-1], flush=True)
    if args.preset:
        return
    head = f"# Written by scripts/sweep_demo_rates.py --goal {args.goal:g} --fixed {args.fixed:g} --seed {args.seed}; do not edit.\n"
    FILE.write_text(head + yaml.safe_dump({"goal": args.goal, "fixed": args.fixed, "rows": rows}, sort_keys=False))
    print("chosen:", choose(rows, args.goal))


if __name__ == "__main__":
    main()
