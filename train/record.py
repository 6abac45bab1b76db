"""A run's own record: what ran, on what, with which versions, how it ended."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.atomic import write_json
from data.position import Reading
from data.provenance import provenance
from model.presets import Manifest

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "numpy")


class Record:
    """run.json, written anew at every change so that a killed run tells how far it came; without a path, nothing is written."""

    def __init__(self, path: Path | None, **values: Any) -> None:
        self.path = path
        self._start = time.time()
        self.values: dict[str, Any] = {
            "status": "running",
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._start)),
            "seconds": 0.0,
            "commit": commit(),
            "device": device(),
            "versions": versions(),
            **values,
        }

    def update(self, **values: Any) -> None:
        """Adds values; writes the file."""
        self.values.update(values, seconds=round(time.time() - self._start, 2))
        if self.path is not None:
            write_json(self.path, self.values)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Writes down how the work inside ended: done, interrupted, or failed with its problem."""
        try:
            yield
        except BaseException as problem:
            self.update(status="interrupted" if isinstance(problem, KeyboardInterrupt) else "failed", problem=str(problem))
            raise
        self.update(status="done")


def commit() -> str | None:
    """The repository's commit, with "+changes" where files differ from it; None outside a repository."""
    root = Path(__file__).parents[1]
    try:
        name = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+changes" if changes else "")


def versions() -> dict[str, str]:
    """What computes: Python's version, those of the libraries behind every step."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def device() -> str:
    """What the run computes on: the GPU's name as its driver tells it, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def describe_data(reading: Reading) -> dict[str, Any]:
    """The data of a run as its record holds it."""
    described = [
        {
            "path": source.config.path,
            "sha256": source.index.sha256,
            "records": source.index.records,
            "samples": len(source.rows),
            "left_out": source.kinds,
            "unused": source.unused,
            "repairs": source.repairs,
            "text_only": source.source.text_only,
            "weight": source.config.weight,
            "share": source.config.share,
            "epochs": round(epochs, 4),
            "licence": source.config.licence,
            "provenance": provenance(source.config.path),
        }
        for source, epochs in zip(reading.sources, reading.plan.epochs([len(one) for one in reading.sources]), strict=True)
    ]
    return {"sources": described, "order_sha256": reading.plan.sha256()}


def describe_training(manifest: Manifest) -> dict[str, Any]:
    """The manifest in short; trainable.json has all of it."""
    return {
        "preset": manifest.preset,
        "parameters": manifest.trainable_parameters,
        "of": manifest.total_parameters,
        "sha256": manifest.sha256,
    }
