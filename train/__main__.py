"""`python -m train` is `perennial`, as launchers start it."""

import sys

from train.cli import main

if __name__ == "__main__":
    sys.exit(main())
