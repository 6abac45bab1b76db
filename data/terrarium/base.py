"""Where the Terrarium's shipped models lie."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
BUILT_IN = {"terrarium": BASE, "terrarium-language": BASE / "language", "terrarium-aligned": BASE / "aligned"}


def resolve(name: str) -> Path:
    """Turns a built-in model's name into its folder; anything else is taken as a path."""
    return BUILT_IN.get(name, Path(name))
