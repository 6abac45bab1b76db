"""A tuned model with what it was tuned from, found from its folder alone."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from data.atomic import write_json
from data.terrarium.base import resolve
from model import build
from model.adapter_points import describe, is_adapter, modules, trained_whole
from model.architectures import on_meta
from model.config import ASSEMBLY_ONLY, ModelConfig
from model.identity import fingerprint
from model.interpolate import INDEX
from model.layout import layout_of
from model.partial import ADAPTER, BASE, PARTS, TRAINABLE, is_partial
from model.source import folder_of, is_hub_name
from model.whole import whole_folder
from train.checkpoint import save
from train.config import load_recipe
from train.evaluate.command import find_checkpoint


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuned model.

    Attributes:
        folder: It, as it is evaluated: whole, or what was trained alone.
        section: The `model` section that loads its base.
        seed: Of that, which draws the projector of an assembly.
        own: Whether the base is the one that its run names, not one that the user named.
    """

    folder: Path
    section: Mapping[str, Any]
    seed: int
    own: bool

    @property
    def is_partial(self) -> bool:
        """Whether the folder holds only what was trained."""
        return is_partial(self.folder)

    @property
    def adapter(self) -> Path | None:
        """Its adapter, where it has one."""
        folder = self.folder / ADAPTER
        return folder if is_adapter(folder) else None

    def base(self, work: Path) -> Path:
        """A folder with the whole base; one that was assembled for the run is assembled again, into `work`."""
        if self.section.get("base") is not None:
            try:
                return folder_of(self.section["base"])
            except FileNotFoundError as error:
                raise FileNotFoundError(f"the base of {self.folder}: {error}; or name another place of it with --against") from None
        return _written(work / "base", lambda: build.load(ModelConfig(**self.section), self.seed))

    def whole(self, work: Path) -> Path:
        """A folder with the whole tuned model; what was trained alone is laid on its base, into `work`."""
        return _written(work / "tuned", lambda: build.load_pair(self.folder)) if self.is_partial else self.folder

    @functools.cached_property
    def trained(self) -> "Trained":
        """What was trained, apart from its base; loads the base, unless the folder holds nothing else."""
        told = json.loads((self.folder / BASE).read_text(encoding="utf-8")) if self.is_partial else {}
        after = load_file(self.folder / TRAINABLE) if (self.folder / TRAINABLE).is_file() else {}
        before: dict[str, Any] = {}
        if after or not told:
            model = build.load(ModelConfig(**self.section), self.seed)[0]
            weights = model.state_dict()
            if not told:
                assert self.adapter is not None
                told = {"fingerprint": fingerprint(model)}
                after = trained_whole(self.folder, weights, modules(self.adapter))
            before = {name: weights[name].detach().clone() for name in after}
        base = {"model": dict(self.section), "seed": self.seed, "fingerprint": told["fingerprint"]}
        return Trained(like=self.folder, adapter=self.adapter, base=base, before=before, after=after)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained, apart from its base.

    Attributes:
        like: Folder whose config and processor fit.
        adapter: Folder of the adapter, or None.
        base: What `model.partial` needs to load the base.
        before: Parameters that trained whole, as they are in the base.
        after: The same, as tuned.
    """

    like: Path
    adapter: Path | None
    base: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]

    def write(
        self, output: Path, adapter: Callable[[Path], Any] | None, whole: Mapping[str, Any], section: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes a folder like those of `train.checkpoint.save_trainable`.

        Args:
            output: Must not exist; appears when everything in it is written.
            adapter: Writes the adapter into a folder; None: there is none.
            whole: Parameters beside the adapter's.
            section: Changes to the `model` section that the folder tells.
        """
        if output.exists():
            raise ValueError(f"output: {output} exists; remove it, or give another folder")
        with whole_folder(output) as partial:
            for path in self.like.iterdir():
                if path.is_file() and path.suffix != ".safetensors" and path.name not in (BASE, INDEX):
                    shutil.copyfile(path, partial / path.name)
            write_json(partial / BASE, self.base | {"model": self.base["model"] | dict(section or {})})
            if adapter is not None:
                adapter(partial / ADAPTER)
            if whole:
                save_file({name: one.contiguous() for name, one in whole.items()}, partial / TRAINABLE, metadata={"format": "pt"})
        return output


def find(run: str, against: str | None = None) -> Tuned:
    """The tuned model that a name means, with its base: from `against`, else from its base.json, else from its run's config.yaml.

    Args:
        run: Run folder (its last checkpoint), or a model folder, whole or with only what was trained.
        against: The base: model folder, run folder, built-in name, name on the hub; None: as the tuned model's files tell.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: Nothing tells the base; or the model is a siamese one, which is no point between two models.
    """
    folder = find_checkpoint(run)
    told = _told(folder)
    if told is not None and told["model"].get("method") == "siamese":
        raise ValueError(f"{folder} is a siamese model, base and adapter at once; give a run with an adapter and method: plain")
    if against is not None:
        base = against if is_hub_name(against) else str(find_checkpoint(against).resolve())
        section = _without_parts(told["model"]) if told is not None else _section_of(folder)
        return Tuned(folder=folder, section=section | {"base": base}, seed=0, own=False)
    if told is None:
        raise ValueError(f"{folder} does not tell which model it was tuned from (no run's config.yaml, no base.json); give --against BASE")
    return Tuned(folder=folder, section=told["model"], seed=told["seed"], own=True)


def _without_parts(section: dict[str, Any]) -> dict[str, Any]:
    """A `model` section without what an assembly alone takes."""
    return {name: value for name, value in section.items() if name not in (*PARTS, *ASSEMBLY_ONLY)}


def _section_of(folder: Path) -> dict[str, Any]:
    """A `model` section that puts the adapter of a model folder in its place; empty where there is none."""
    adapter = folder / ADAPTER
    if not is_adapter(adapter):
        return {}
    model = on_meta(AutoConfig.from_pretrained(folder))
    carrying = modules(adapter)
    places = [place for place in layout_of(model.config).places(model) if place.name.rpartition(".")[0] in carrying]
    paths = sorted({".".join([place.part, *place.words[:-1]]) for place in places})
    return {"preset": "as_saved", "presets": {"as_saved": paths}, "adapter": describe(adapter)}


def _told(folder: Path) -> dict[str, Any] | None:
    """The `model` section with the seed that load the base, as far as files tell."""
    if is_partial(folder):
        found: dict[str, Any] = json.loads((folder / BASE).read_text(encoding="utf-8"))
        return found
    run = next((one for one in (folder.parent.parent, folder.parent) if (one / "config.yaml").is_file()), None)
    if run is None:
        return None
    recipe = load_recipe(run / "config.yaml", check_files=False)
    if recipe.model is None:
        return None
    section = recipe.model.model_dump(mode="json")
    for name in (*PARTS, "projector", "chat_template"):
        if section[name] is not None and resolve(section[name]).exists():
            section[name] = str(resolve(section[name]).resolve())  # points may be loaded from another folder
    return {"model": section, "seed": recipe.train.seed}


def _written(folder: Path, load: Callable[[], tuple[Any, Any]]) -> Path:
    """A whole folder of a model that has none; made once."""
    if not folder.exists():
        save(*load(), folder, dtype="fp32")
    return folder
