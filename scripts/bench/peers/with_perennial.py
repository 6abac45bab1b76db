"""The comparison's own run: a recipe, as `perennial train` takes it; rows padded, or packed."""

from pathlib import Path
from typing import Any

from meter import measured, setting

from train.config import make_recipe
from train.run import train


def main() -> None:
    """Trains."""
    found = setting()
    measured(found)
    folder = Path(found["folder"])
    data: dict[str, Any] = {"sources": [{"path": str(folder / "llava.json")}], "cache": str(Path(found["output"]) / "cache")}
    rows = found["batch"]
    if found["row"] is not None:
        data["packing"] = {"length": found["row"]}
        rows = found["rows"]
    training = {
        "learning_rate": found["rate"],
        "schedule": "constant",
        "warmup_share": 0.0,
        "batch_size": rows,
        "steps": found["steps"] * found["turns"],
        "trackers": [],
    }
    recipe = {"model": {"base": found["model"], "preset": found["trains"]}, "data": data, "train": training}
    train(make_recipe(recipe | {"output": str(Path(found["output"]) / "run")}), progress=False)


if __name__ == "__main__":
    main()
