"""An original LLaVA checkpoint's tensors under the names that transformers gives them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from model.vision import load_tower

if TYPE_CHECKING:
    import torch

TOWER = "model.vision_tower.vision_tower.vision_model."
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# transformers' prefix -> the original's. Every other name is the same in both.
PREFIXES = {
    "model.vision_tower.": TOWER,
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
}
# Computed from the config; old releases of the original saved them.
BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# OpenAI's vision transformers: heads of 64, quick GELU. Their other sizes can be read from the shapes.
OPENAI = {"clip-vit-base-patch16", "clip-vit-base-patch32", "clip-vit-large-patch14", "clip-vit-large-patch14-336"}
HEAD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class StoredTower:
    """The vision tower of a checkpoint.

    Attributes:
        config: A `CLIPVisionConfig` or `SiglipVisionConfig`.
        image_processor: Makes pictures of its size.
        weights: What the checkpoint itself does not hold, under the original's names.
    """

    config: Any
    image_processor: Any
    weights: "dict[str, torch.Tensor]" = field(default_factory=dict)

    @property
    def has_class_token(self) -> bool:
        """Whether its first feature is a class token's, not a patch's; SigLIP has none."""
        return self.config.model_type == "clip_vision_model"

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return int(self.config.image_size // self.config.patch_size) ** 2


def weight_files(folder: Path) -> list[Path]:
    """The files of a model folder's weights; none where it holds none.

    Raises:
        FileNotFoundError: An index names a file that is not there.
    """
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent:
                raise FileNotFoundError(f"{index} names files that are not there: {_some(absent)}; complete the folder")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    return []


def read(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a model folder, mapped from disk, not copied.

    Args:
        folder: Holds `model.safetensors` or `pytorch_model.bin`, or shards of one of them with their index.

    Raises:
        FileNotFoundError: There are no weights, or a shard is missing.
        ValueError: Two shards hold the same tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        part = read_file(path)
        twice = sorted(tensors.keys() & part.keys())
        if twice:
            raise ValueError(f"{path} holds again what another shard holds: {_some(twice)}; remove the shards of the other run")
        tensors |= part
    if not tensors:
        raise FileNotFoundError(
            f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}, whole or in shards; give the folder of a full checkpoint (merge a LoRA "
            "run with its base first; a stage-1 run's mm_projector.bin is a projector, not a checkpoint)"
        )
    return tensors


def read_file(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of one file, safetensors or torch's own format; nothing in it is executed.

    Raises:
        ValueError: It holds something other than named tensors.
    """
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} does not hold tensors by name; give the file that the original's training saved")
    return tensors


def find_tower(stored: "Mapping[str, torch.Tensor]", name: str, vision: str | Path | None) -> StoredTower:
    """The vision tower: from the checkpoint as far as it holds one, else from the source that is given.

    Args:
        stored: The checkpoint's tensors.
        name: Its `mm_vision_tower`.
        vision: A CLIP or SigLIP, as `model.vision.load_tower` takes it. The original cuts off SigLIP's last layer and its pooling head,
            which nothing reads; they are taken from here, so that the tower is a whole one.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: A source is needed; or it is of another kind, or incomplete.
    """
    is_inside = any(key.startswith(TOWER) for key in stored)
    if vision is None:
        if is_inside and Path(name).name in OPENAI:
            return _openai_tower(stored)
        what = f"settings for its vision tower, which is not one of {', '.join(sorted(OPENAI))}" if is_inside else "vision tower"
        raise ValueError(f"the checkpoint holds no {what}; it was trained with {name}: give that model's folder as `vision`")
    tower = load_tower(vision)
    config = tower.model.config
    weights = {TOWER + key: tensor for key, tensor in tower.model.state_dict().items()}
    if is_inside:
        cut = (f"{TOWER}encoder.layers.{config.num_hidden_layers - 1}.", f"{TOWER}head.") if not tower.has_class_token else ()
        weights = {key: tensor for key, tensor in weights.items() if key.startswith(cut) and key not in stored}
    return StoredTower(config=config, image_processor=tower.image_processor, weights=weights)


def with_rows(stored: "Mapping[str, torch.Tensor]", text: Any, rows: int) -> "dict[str, torch.Tensor]":
    """The tensors with `rows` rows of embeddings and of the head; the rows that are added are the mean of those before.

    Args:
        stored: The checkpoint's tensors.
        text: The language model's config, with as many rows in `vocab_size` as are there.
        rows: Not below that number.

    Raises:
        ValueError: The embeddings are missing, or have another number of rows than the config says; or the config ties the head to them,
            yet the file holds a head of its own.
    """
    import torch

    found = len(stored[EMBEDDINGS]) if EMBEDDINGS in stored else 0
    if found != text.vocab_size:
        raise ValueError(
            f"{EMBEDDINGS} has {found} rows, but vocab_size in config.json is {text.vocab_size}; check that both are of one run"
        )
    grown = dict(stored)
    if text.tie_word_embeddings and not torch.equal(grown.setdefault(HEAD, grown[EMBEDDINGS]), grown[EMBEDDINGS]):
        raise ValueError(f"config.json says tie_word_embeddings, but {HEAD} is not {EMBEDDINGS}; set it to false if both were trained")
    for name in {EMBEDDINGS, HEAD} & grown.keys():
        weight = grown[name]
        mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
        grown[name] = torch.cat([weight, mean.expand(rows - len(weight), -1)]) if rows > len(weight) else weight
    return grown


def convert(stored: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, torch.Tensor]", where: Path) -> "dict[str, torch.Tensor]":
    """Tensors for every name of a transformers model, all in the embeddings' dtype, as the original computes.

    Args:
        stored: Tensors by the original's names.
        wanted: The transformers model's `state_dict`, of which the names and shapes are read.
        where: The checkpoint, for messages.

    Raises:
        ValueError: A tensor is missing, is left over, has another shape or is not finite; named as in the file.
    """
    names = {_original_name(name): name for name in wanted}
    dtype = stored[EMBEDDINGS].dtype
    kept = {name: tensor.to(dtype) for name, tensor in stored.items() if not name.endswith(BUFFERS)}
    check_fit(kept, {original: wanted[name] for original, name in names.items()}, where)
    return {names[original]: tensor for original, tensor in kept.items()}


def check_fit(found: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, torch.Tensor]", where: Path) -> None:
    """Refuses tensors that do not fit name by name.

    Raises:
        ValueError: Names what is missing, unexpected, of the wrong shape or not finite, up to five of each.
    """
    both = sorted(wanted.keys() & found.keys())
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "wrong shape": [
            f"{name} {list(found[name].shape)}, expected {list(wanted[name].shape)}"
            for name in both
            if found[name].shape != wanted[name].shape
        ],
        "not finite": [name for name in both if not found[name].isfinite().all()],
    }
    told = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if told:
        raise ValueError(f"the weights in {where} do not fit ({'; '.join(told)}); check that the files are complete and of one run")


def _original_name(name: str) -> str:
    """The original's name of a parameter of `LlavaForConditionalGeneration` or `LlavaNextForConditionalGeneration`."""
    for native, original in PREFIXES.items():
        if name.startswith(native):
            return original + name.removeprefix(native)
    return name


def _openai_tower(stored: "Mapping[str, torch.Tensor]") -> StoredTower:
    from transformers import CLIPImageProcessor, CLIPVisionConfig

    shapes = {key.removeprefix(TOWER): tensor.shape for key, tensor in stored.items() if key.startswith(TOWER)}
    try:
        width, _, _, patch = shapes["embeddings.patch_embedding.weight"]
        size = isqrt(shapes["embeddings.position_embedding.weight"][0] - 1) * patch
        inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise ValueError(f"the checkpoint's vision tower has no {error.args[0]}; check that the files are complete") from error
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len({key.split(".")[2] for key in shapes if key.startswith("encoder.layers.")}),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=size,
        patch_size=patch,
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return StoredTower(config=config, image_processor=pictures)


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (" ..." if len(names) > limit else "")
