"""What a converter gets: folders, files, a seed, a ledger of what it leaves out."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Work:
    """One conversion.

    Attributes:
        root: Folder of the prepared data set; image paths in records are relative to it.
        files: Name of a `RemoteFile` -> its local files.
        source: Folder that the user gave with `--from`; None if none.
        seed: Chooses everything that is drawn.
        limit: Records of each split at most; None: all.
        progress: Show bars.
        left_out: Reason -> names of records or pictures, for each thing that is not in the output.
        counts: What else was noticed -> how often.
    """

    root: Path
    files: Mapping[str, tuple[Path, ...]]
    source: Path | None = None
    seed: int = 0
    limit: int | None = None
    progress: bool = True
    left_out: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def file(self, name: str) -> Path:
        """The one local file of a `RemoteFile`."""
        (path,) = self.files[name]
        return path

    def leave_out(self, reason: str, name: str) -> None:
        """Notes that something is not in the output."""
        self.left_out.setdefault(reason, []).append(name)

    def draw(self, key: str) -> random.Random:
        """A generator that depends on the seed and a name alone, so neither order nor limit change what is drawn."""
        return random.Random(f"{self.seed}:{key}")

    def fraction(self, key: str) -> float:
        """A number in [0, 1) for a name, the same in every run of this seed."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{key}".encode()).digest()[:7], "big") / 2**56
