"""Recipes: YAML files checked into frozen config objects."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.config import HUB, DataConfig
from data.terrarium.base import BUILT_IN, resolve
from data.trees.plan import TreeConfig
from model.config import OPEN_CLIP, ModelConfig
from model.source import is_hub_name
from train.explain import explain
from train.sequence_config import SequenceConfig

RECIPES = Path(__file__).parent / "recipes"


class PartConfig(BaseModel):
    """How one part of the model trains, where that differs from the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; None: train.learning_rate")
    weight_decay: float | None = Field(None, ge=0, description="AdamW's, on matrices only; None: train.weight_decay")


class PartsConfig(BaseModel):
    """The parts that a model is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vision: PartConfig = Field(default_factory=PartConfig, description="the vision tower")
    projector: PartConfig = Field(default_factory=PartConfig, description="what maps the tower's features to the language model")
    llm: PartConfig = Field(default_factory=PartConfig, description="the language model with embeddings and head, or its adapters")
    gate: PartConfig = Field(default_factory=PartConfig, description="the gate of a siamese model")


class LossConfig(BaseModel):
    """One term of what training minimises; `train.losses` and `train.distill` say what each comes to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cross_entropy", "eaft", "lwf", "kl_to_base"] = Field(
        description="cross_entropy; eaft (2601.02151): the same, weighted by entropy; lwf (1606.09282), kl_to_base: KL to a teacher"
    )
    weight: float = Field(1.0, ge=0, description="of this term in the sum")
    on: Literal["all", "text", "images"] | None = Field(
        None, description="samples that it counts: all, those without pictures, those with; None: text for kl_to_base, else all"
    )
    temperature: float | None = Field(None, gt=0, description="lwf, kl_to_base: of both distributions; None: 2 for lwf, 1 for kl_to_base")
    teacher: str | None = Field(None, description="lwf, kl_to_base: model folder or name; None: the model as this run finds it")
    top: int | None = Field(None, ge=2, description="eaft: most probable tokens whose entropy counts; None: 20")

    @property
    def is_distilled(self) -> bool:
        """Whether it needs a teacher."""
        return self.kind in ("lwf", "kl_to_base")

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> "LossConfig":
        used = {"lwf": {"temperature", "teacher"}, "kl_to_base": {"temperature", "teacher"}, "eaft": {"top"}}.get(self.kind, set())
        idle = {name for name in ("temperature", "teacher", "top") if getattr(self, name) is not None} - used
        if idle:
            raise ValueError(f"{', '.join(sorted(idle))} has no effect on {self.kind}; leave it out")
        return self


class TrainConfig(BaseModel):
    """The `train` section of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field("skill", description="what this training is called in the run's records")
    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate")
    batch_size: int = Field(32, ge=1, description="samples in one optimizer step, over all processes")
    micro_batch_size: int | None = Field(None, ge=1, description="most samples in one forward pass of one process; None: no accumulation")
    steps: int | None = Field(None, ge=1, description="optimizer steps; None: as many as `epochs` needs")
    epochs: float = Field(1.0, gt=0, description="passes over the data; without effect when `steps` is given")
    zero: Literal["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"] = Field(
        "zero2", description="file in zero_configs/"
    )
    seed: int = Field(0, ge=0, description="draws the order of the data, a fresh projector, dropout")
    warmup_share: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, on matrices only")
    parts: PartsConfig = Field(default_factory=PartsConfig, description="rates of single parts")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32", description="of the computation; auto: bf16 on a GPU, or on a CPU that has instructions for it, else fp32"
    )
    gradient_checkpointing: bool = Field(
        False, description="activations are computed again in the backward pass: less memory, a third more work"
    )
    losses: Annotated[
        tuple[LossConfig, ...], Field(min_length=1, description="terms of what is minimised, each divided by its own count over the step")
    ] = (LossConfig(kind="cross_entropy"),)
    matmul_precision: Literal["highest", "high", "medium"] = Field("highest", description="of float32 products; medium: bf16 inside")
    verify_frozen: bool = Field(False, description="check after the first and the last step that every frozen tensor is bit-identical")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; None: at the end alone")
    checkpoints: Literal["whole", "trainable"] = Field(
        "whole", description="those on the way: whole model folders, or only what trains, which loads on top of the base"
    )
    keep_states: int = Field(2, ge=1, description="newest states to go on from that are kept; should one be damaged, the one before serves")
    keep_checkpoints: int | None = Field(None, ge=1, description="newest checkpoints that are kept; None: all")
    max_rise: float | None = Field(
        5.0, gt=0, description="nats above the median of the last 64 steps at which the loss counts as broken; None: never"
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(("tensorboard",), description="where curves are shown")
    resume: Literal["never", "if_possible", "always"] = Field(
        "if_possible", description="go on with an unfinished run in the output folder, from the last of its save_every; never: begin anew"
    )
    save_dtype: Literal["fp32", "bf16"] = Field("fp32", description="of the saved weights")

    def warmup_steps(self, steps: int) -> int:
        """Of so many steps, those in which the learning rate rises."""
        return round(self.warmup_share * steps)


class Recipe(BaseModel):
    """A whole recipe; a command asks for the sections that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig | None = Field(None, description="what to load or assemble, what to train")
    data: DataConfig | None = Field(None, description="what to train on")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how to train")
    tree: TreeConfig | None = Field(None, description="which dialogues to grow")
    sequence: SequenceConfig | None = Field(None, description="skill after skill, each from the checkpoint of the one before")
    output: str | None = Field(None, description="folder to write")

    @model_validator(mode="after")
    def _a_gate_to_train(self) -> "Recipe":
        gate_alone = [source.path for source in (self.data.sources if self.data is not None else ()) if source.trains == "gate"]
        if gate_alone and (self.model is None or self.model.method != "siamese" or (self.model.gate and self.model.gate.kind == "fixed")):
            raise ValueError(
                f"data.sources: {gate_alone[0]} is to train the gate alone, but this recipe has no gate that learns; give model.method: "
                "siamese with a gate of another kind than fixed, or leave `trains` out"
            )
        return self

    def need(self, *sections: str) -> "Recipe":
        """Gives the recipe back if it has these sections; else a ValueError names the first that is missing."""
        for section in sections:
            if getattr(self, section) is None:
                raise ValueError(f"{section}: missing in the recipe; this command needs {', '.join(sections)}")
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> Recipe:
    """Reads a YAML recipe, applies `--section.key value` overrides, checks everything.

    Args:
        path: The file.
        overrides: Words of the command line: "--train.learning_rate", "1e-3" or "--train.learning_rate=1e-3".
        check_files: Whether data files and model folders must exist.

    Raises:
        FileNotFoundError: The recipe, a data file or a model folder does not exist.
        ValueError: The recipe is wrong; the message has the dotted path, what was found, what was expected, the nearest name.
    """
    return make_recipe(_read(Path(path)), where=str(path), overrides=overrides, check_files=check_files)


def make_recipe(values: dict[str, Any], where: str = "recipe", *, overrides: Sequence[str] = (), check_files: bool = True) -> Recipe:
    """Checks plain values into a recipe; built-in model names become folders. `load_recipe` says what is raised."""
    for key, value in _pairs(overrides):
        _set(values, key, value)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, Recipe)}") from None
    if recipe.model is not None:
        folders = {name: str(resolve(value)) for name in ("base", "vision", "language") if (value := getattr(recipe.model, name))}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=folders)})
    if check_files:
        _check_files(recipe, where)
    return recipe


def _check_files(recipe: Recipe, where: str) -> None:
    for number, source in enumerate(recipe.data.sources if recipe.data else ()):
        plain = not source.path.startswith(HUB) and not set(source.path) & set("*?[{")
        if plain and not Path(source.path).exists():
            raise FileNotFoundError(f"{where}: data.sources.{number}.path: {source.path} does not exist{_near(Path(source.path))}")
    for name in ("base", "vision", "language"):
        folder = getattr(recipe.model, name, None)
        if folder is None or is_hub_name(folder) or folder.startswith(OPEN_CLIP):
            continue
        if not (Path(folder) / "config.json").is_file():
            what = "holds no config.json" if Path(folder).is_dir() else "does not exist"
            raise FileNotFoundError(
                f"{where}: model.{name}: {folder} {what}; give a folder saved in transformers' format, a name on the hub, or one of "
                f"{', '.join(BUILT_IN)}"
            )
    for name in ("projector", "chat_template"):
        file = getattr(recipe.model, name, None)
        if file is not None and not Path(file).exists():
            raise FileNotFoundError(f"{where}: model.{name}: {file} does not exist{_near(Path(file))}")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"recipe {path} does not exist{_near(path)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected sections ({', '.join(Recipe.model_fields)}), got {type(values).__name__}")
    return values


def _near(path: Path) -> str:
    """A hint at the file that was probably meant: beside the wrong name, or among the recipes."""
    folders = [folder for folder in (path.parent, RECIPES) if folder.is_dir()]
    for folder in folders:
        near = difflib.get_close_matches(path.name, [one.name for one in folder.iterdir()], n=1)
        if near:
            return f"; did you mean {folder / near[0]}?"
    return "; check the path (it is relative to the folder that you are in)"


def _pairs(words: Sequence[str]) -> list[tuple[str, Any]]:
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"got {word!r} on the command line, expected --section.key value, such as --train.learning_rate 1e-3")
        key, found, value = word[2:].partition("=")
        if not found:
            if not rest:
                raise ValueError(f"--{key} has no value; write --{key} VALUE")
            value = rest.pop(0)
        pairs.append((key, yaml.safe_load(value)))
    return pairs


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; numbers count into lists."""
    node: Any = values
    *path, last = key.split(".")
    for word in path:
        if isinstance(node, list):
            node = node[_index(node, word, key)]
            continue
        if node.get(word) is None:
            node[word] = {}
        node = node[word]
        if not isinstance(node, dict | list):
            raise ValueError(f"--{key}: {word} is a plain value ({node!r}), so it has no keys")
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _index(node: list[Any], word: str, key: str) -> int:
    if not word.isdigit() or int(word) >= len(node):
        raise ValueError(f"--{key}: expected a number from 0 to {len(node) - 1} in place of {word!r}")
    return int(word)
