"""The recipe by which a plain model learns from a siamese one, known before anything is trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.partial import ADAPTER, BASE, PARTS, is_partial, is_siamese
from train.config import Recipe, load_recipe, make_recipe
from train.evaluate.command import find_checkpoint

RUN, CONFIG = "run", "config.yaml"
SIZES = ("rank", "alpha", "dropout")  # which one kind can take over from another; ia3 has none


def find_siamese(run: str) -> Path:
    """The siamese checkpoint that a name means.

    Args:
        run: Run folder (its last checkpoint), or the folder of a siamese model.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds a model of another kind; the message says which, and what loads it.
    """
    folder = find_checkpoint(run)
    if is_siamese(folder):
        return folder
    if not is_partial(folder):
        adapter = f", with its adapter alone in {folder / ADAPTER}" if (folder / ADAPTER).is_dir() else ""
        what = f"a whole model, which plain transformers loads already{adapter}"
    elif (folder / ADAPTER).is_dir():
        what = f"an adapter, which PEFT loads already from {folder / ADAPTER}; the last checkpoint of its run is the whole model"
    else:
        what = "only what was trained, but no gate; the last checkpoint of its run is a whole model, which plain transformers loads already"
    raise ValueError(f"{folder} holds {what}. There is nothing to distil: expected a siamese model (model.method: siamese)")


def plan(siamese: Path, output: Path, *, kind: str | None = None, recipe: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the run that distils.

    Args:
        siamese: From `find_siamese`.
        output: The run folder lies in it.
        kind: Of the student, see `student`.
        recipe: File whose `data` and `train` sections say what the student learns on and how; None: config.yaml of the siamese's run.
        overrides: Words of the command line, as `perennial train` takes them.

    Raises:
        FileNotFoundError: A data file, or the base, is not where it was.
        ValueError: Nothing tells what to train on, the recipe is wrong, or an override would give the student another base.
    """
    file = Path(recipe) if recipe is not None else _config_of(siamese)
    told = json.loads((siamese / BASE).read_text(encoding="utf-8"))
    settings = load_recipe(file, check_files=False).need("data")
    where = f"{file} with {siamese / BASE}"
    found = make_recipe(student(told, settings, siamese, output, kind=kind), where, overrides=overrides)
    _check_beginning(make_recipe(student(told, settings, siamese, output, kind=kind), where, check_files=False), found)
    return found


def student(told: Mapping[str, Any], settings: Recipe, siamese: Path, output: Path, *, kind: str | None = None) -> dict[str, Any]:
    """The values of the student's recipe: the siamese's base with a fresh adapter learns the siamese's predictions.

    Steps, batches, rates and data are those the siamese had; the loss is KL(siamese || student) on every token that carries loss. Where
    a source trained the gate alone (`trains: gate`), the student learns from the teacher like everywhere else: what the gate learned there
    has to go into the adapter.

    Args:
        told: The siamese's base.json, which tells the base by its absolute path, and the adapter.
        settings: Recipe with the sections data and train.
        siamese: Folder of the teacher.
        output: The run folder lies in it.
        kind: Of the adapter; "none": the preset's weights train themselves; None: the siamese's.

    Returns:
        Plain values, for `train.config.make_recipe`.
    """
    assert settings.data is not None
    model = {**told["model"], "method": "plain", "gate": None, "adapter": _adapter(told["model"]["adapter"], kind)}
    data = settings.data.model_dump(mode="json")
    data["sources"] = [source | {"trains": "all"} for source in data["sources"]]
    train = settings.train.model_dump(mode="json")
    learns = {"kind": "lwf", "on": "all", "temperature": 1.0, "teacher": str(siamese.resolve())}
    train |= {"stage": "distil", "seed": told["seed"], "losses": [learns], "resume": "if_possible", "parts": train["parts"] | {"gate": {}}}
    return {"model": model, "data": data, "train": train, "output": str(output / RUN)}


def _adapter(before: Mapping[str, Any], kind: str | None) -> dict[str, Any] | None:
    if kind == "none":
        return None
    if kind is None or kind == before["kind"]:
        return dict(before)
    return {"kind": kind} | ({} if kind == "ia3" else {name: before[name] for name in SIZES})


def _config_of(siamese: Path) -> Path:
    """config.yaml of the run that a checkpoint lies in."""
    place = siamese.resolve()
    file = place.parent.parent / CONFIG
    if place.parent.name != "checkpoints" or not file.is_file():
        raise ValueError(
            f"{siamese} lies in no run folder ({file} would tell what it was trained on); name the data to distil on with --recipe FILE"
        )
    return file


def _check_beginning(derived: Recipe, found: Recipe) -> None:
    """Fails where overrides gave the student another base, or another method."""
    before, now = derived.model, found.model
    assert before is not None
    assert now is not None
    changed = [f"model.{name}" for name in (*PARTS, "method") if getattr(before, name) != getattr(now, name)]
    if now.base is None and found.train.seed != derived.train.seed:
        changed.append("train.seed (it draws the projector of the base)")
    if found.output != derived.output:
        changed.append("output (give --output)")
    if changed:
        raise ValueError(f"{', '.join(changed)}: the student is a plain model that begins where the siamese began; leave this override out")
