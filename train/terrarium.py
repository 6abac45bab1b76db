"""`perennial terrarium`: writes the small synthetic world to disk."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `perennial terrarium`."""
    from data.terrarium.sample import TEST_SIZE, TRAIN_SIZE

    parser.add_argument("--output", type=Path, default=Path("runs/terrarium"), help="folder to write (default: %(default)s)")
    parser.add_argument("--test-size", type=int, default=TEST_SIZE, help="test samples of each skill (default: %(default)s)")
    parser.add_argument("--train-size", type=int, default=TRAIN_SIZE, help="training samples of each target skill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the samples (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Writes the world; prints where its suite file lies."""
    from data.terrarium.world import write_world

    suite = write_world(args.output, test_size=args.test_size, train_size=args.train_size, seed=args.seed)
    print(f"wrote {suite}; evaluate with: perennial evaluate CHECKPOINT --suite {suite}")
    return 0
