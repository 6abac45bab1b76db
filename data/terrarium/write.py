"""Writes Terrarium samples to disk as ordinary LLaVA JSON beside PNG pictures."""

from collections.abc import Iterable
from pathlib import Path

from data.atomic import write_json
from data.terrarium.sample import Sample

SPEAKERS = ("human", "gpt")


def write(samples: Iterable[Sample], path: Path, *, progress: bool = False, total: int | None = None) -> Path:
    """Writes one LLaVA JSON file; the pictures go to `images/NAME/` beside it.

    Args:
        samples: what to write, in order.
        path: the JSON file; its stem names the folder of its pictures.
        progress: whether to draw a progress bar.
        total: number of samples, for the progress bar.

    Returns:
        `path`. The JSON file appears last, at once, so a file that is there is whole.
    """
    from tqdm import tqdm

    pictures = path.parent / "images" / path.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for index, sample in enumerate(tqdm(samples, total=total, desc=f"write {path.stem}", disable=not progress)):
        record = {"id": f"{path.stem}-{index}", "skill": sample.skill, "conversations": conversation(sample)}
        if sample.picture is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            file = pictures / f"{index:06d}.png"
            sample.picture().save(file, compress_level=1)
            record["image"] = file.relative_to(path.parent).as_posix()
        records.append(record)
    return write_json(path, records, indent=0)


def conversation(sample: Sample) -> list[dict[str, str]]:
    """The sample's turns in LLaVA's form; `<image>` opens the first question of a sample with a picture."""
    turns = [{"from": "system", "value": sample.system}] if sample.system else []
    for index, texts in enumerate(sample.rounds):
        marker = "<image>\n" if sample.picture is not None and index == 0 else ""
        turns += [{"from": speaker, "value": text} for speaker, text in zip(SPEAKERS, (marker + texts[0], texts[1]), strict=True)]
    return turns
