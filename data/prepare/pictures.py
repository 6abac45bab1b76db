"""Pictures that a data set names by address only: fetched side by side, known by their content."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from data.atomic import whole_file
from data.prepare.download import Refused, Unreachable, get
from data.prepare.work import Work

LOG = "pictures.jsonl"
WORKERS = 8  # polite to the hosts
UNREACHABLE = 0.01  # share of pictures that may stay unreachable before the work is called unfinished
STARTS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def ending(content: bytes) -> str:
    """The file ending of a picture, from its first bytes; "" where they are no picture's."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((found for start, found in STARTS.items() if content.startswith(start)), "")


def keep(content: bytes, root: Path) -> str | None:
    """Writes a picture's own bytes to `images/XX/SHA256.ENDING`; gives that path below `root`, None if it is no picture."""
    found = ending(content)
    if not found:
        return None
    name = hashlib.sha256(content).hexdigest()
    target = root / "images" / name[:2] / (name + found)
    if not (target.is_file() and target.stat().st_size == len(content)):
        with whole_file(target) as partial:
            partial.write_bytes(content)
    return target.relative_to(root).as_posix()


def link(source: Path, target: Path) -> None:
    """Puts a file in another place without its bytes if the disk allows, else with them; what is there stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def known(work: Work) -> dict[str, dict[str, str]]:
    """What earlier calls found out: sha256 -> {"file": path below root} or {"reason": why there is none}."""
    log = work.root / "raw" / LOG
    found: dict[str, dict[str, str]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of an interrupted call
        found[entry.pop("sha256")] = entry
    return {name: entry for name, entry in found.items() if "reason" in entry or (work.root / entry["file"]).is_file()}


def fetch(wanted: Mapping[str, str], work: Work) -> None:
    """Fetches pictures, sha256 -> address; each outcome is in the log at once, so that an interrupted call goes on.

    Raises:
        RuntimeError: More than `UNREACHABLE` of them could not be reached; another call tries these again.
    """
    done = known(work)
    missing = {name: url for name, url in wanted.items() if name not in done}
    log = work.root / "raw" / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    unreachable = []
    cut = log.is_file() and not log.read_bytes().endswith(b"\n")
    with open(log, "a", encoding="utf-8") as file:
        file.write("\n" if cut else "")
        for name, outcome in _outcomes(missing, work):
            if isinstance(outcome, Unreachable):
                unreachable.append((name, outcome))
                continue
            file.write(json.dumps({"sha256": name} | outcome) + "\n")
            file.flush()
        if len(unreachable) > UNREACHABLE * len(wanted):
            raise RuntimeError(
                f"{len(unreachable):,} of {len(wanted):,} pictures could not be reached, for instance: {unreachable[0][1]} "
                "All others are kept; run the same command again, later if the host says 429"
            )
        for name, _ in unreachable:
            file.write(json.dumps({"sha256": name, "reason": "unreachable"}) + "\n")


def _outcomes(missing: Mapping[str, str], work: Work) -> Iterable[tuple[str, Any]]:
    from tqdm import tqdm

    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = {pool.submit(_one, name, url, work): name for name, url in missing.items()}
        try:
            for job in tqdm(as_completed(jobs), desc="pictures", total=len(jobs), disable=not work.progress):
                yield jobs[job], job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(name: str, url: str, work: Work) -> dict[str, str] | Unreachable:
    mine = _given(name, work)
    if mine is not None:
        content = mine.read_bytes()
    else:
        try:
            content = get(url)
        except Refused:
            return {"reason": "gone"}
        except Unreachable as error:
            return error
    if hashlib.sha256(content).hexdigest() != name:
        return {"reason": "another picture by now" if ending(content) else "not a picture"}
    path = keep(content, work.root)
    return {"file": path} if path else {"reason": "not a picture"}


def _given(name: str, work: Work) -> Path | None:
    """A picture of the user's folder, named by its sha256 as this command names it or flat, as others do."""
    if work.source is None:
        return None
    endings = [*dict.fromkeys(STARTS.values()), ".webp", ".jpeg", ""]
    folders = [work.source / "images" / name[:2], work.source / "images", work.source]
    return next((path for folder in folders for end in endings if (path := folder / (name + end)).is_file()), None)
