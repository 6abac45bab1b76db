"""Checkpoints of the original LLaVA repository as transformers models."""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.original_processor import build_image_processor, build_tokenizer
from model.original_weights import EMBEDDINGS, StoredTower, check_fit, convert, find_tower, read, read_file, weight_files, with_rows
from model.processor import IMAGE_TOKEN, build_processor
from model.quiet import without_bars
from model.whole import whole_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

# The original's model type -> transformers' of the language model inside.
LANGUAGES = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
# (mm_patch_merge_type, image_aspect_ratio) -> transformers' model type. The native NeXT always takes the padding out of its grids.
LAYOUTS = {("flat", "square"): "llava", ("flat", "pad"): "llava", ("spatial_unpad", "anyres"): "llava_next"}
STRATEGIES = {"patch": "default", "cls_patch": "full"}
# What the original assumes where its config is silent, then what the native classes can compute.
DEFAULTS: dict[str, Any] = {
    "model_type": None,
    "mm_projector_type": "linear",
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "image_aspect_ratio": "square",
    "image_grid_pinpoints": None,
    "mm_vision_tower": "a tower without a name",
}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": tuple(LANGUAGES),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": tuple(STRATEGIES),
}
NUMBERED = {"0": "linear_1", "2": "linear_2"}
SIGLIP_LAYER = -2


def import_checkpoint(source: Path, folder: Path, *, vision: str | Path | None = None) -> Path:
    """Writes an original LLaVA-1.5 or LLaVA-NeXT checkpoint as a transformers model with its processor.

    The model is `LlavaForConditionalGeneration`, or `LlavaNextForConditionalGeneration` where the config merges patches "spatial_unpad" of
    "anyres" pictures. Weights keep the dtype of the embeddings; a tower from `vision` is cast to it, as the original does. Every tensor
    must find its place and must be finite; what was written is read back and compared before the folder appears, so memory for one copy is
    needed.

    Tokens: `<image>` is made a special token and added where it is missing. The embeddings get rows for all of the tokenizer's ids, not
    more; a new row is the mean of the old ones. Of generation_config.json the token ids are taken, not how to sample.

    Chat template: the tokenizer's own, as it is. A LLaMA without one gets the original's "vicuna_v1" with LLaVA-1.5's system prompt; any
    other model without one stays so, with a warning.

    Pictures: the settings of `vision`, else OpenAI's for the tower's size. "pad" pads to a square with the mean colour, "anyres" tiles.

    Args:
        source: The original's folder: config.json, weights (safetensors or .bin, whole or in shards), tokenizer.
        folder: Must not exist or be empty; written whole or not at all.
        vision: The CLIP or SigLIP that the checkpoint was trained with: folder or hub name of a model in transformers' format. Not needed
            where the checkpoint holds one of OpenAI's towers itself.

    Returns:
        `folder`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The checkpoint is of a kind that the native classes cannot compute, or its weights do not fit; nothing is written.
    """
    source, folder = Path(source), Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; give a new one")
    config, kind = _config(source)
    text = _language_config(config)
    tokenizer = build_tokenizer(source, text)
    stored = read(source)
    tower = find_tower(stored, config["mm_vision_tower"], vision)
    stored = with_rows(stored | tower.weights, text, rows=max(text.vocab_size, 1 + max(tokenizer.get_vocab().values())))
    text.vocab_size = len(stored[EMBEDDINGS])
    native = _native_config(config, kind, text, tower, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    model = _model(native, stored, source)
    images = build_image_processor(native, config["image_aspect_ratio"], tower.image_processor)
    _write(model, build_processor(native, tower.has_class_token, tokenizer, images), folder)
    return folder


def load_projector(projector: "nn.Module", file: Path) -> None:
    """Loads a projector that was aligned before into a two-layer LLaVA projector, in the dtype and on the device of the latter.

    Args:
        projector: `multi_modal_projector` of a LLaVA model: `linear_1`, `linear_2`.
        file: The original's `mm_projector.bin` or the folder of the stage-1 run that saved it; or the folder or safetensors file of a whole
            model, such as a stage-1 run of this project saves, of which the rest is left aside.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A tensor is missing, is left over, has another shape or is not finite.
    """
    file = Path(file)
    if file.is_dir() and not weight_files(file):
        file /= "mm_projector.bin"
    if not file.exists():
        raise FileNotFoundError(f"projector {file} does not exist; give a mm_projector.bin or the folder of a model")
    is_whole = file.is_dir() or file.suffix == ".safetensors"
    found = {}
    for name, tensor in (read(file) if file.is_dir() else read_file(file)).items():
        _, is_native, inner = name.rpartition("multi_modal_projector.")
        _, is_original, numbered = name.rpartition("mm_projector.")
        if is_native:
            found[inner] = tensor
        elif is_original:
            number, _, rest = numbered.partition(".")
            found[f"{NUMBERED.get(number, number)}.{rest}"] = tensor
        elif not is_whole:
            found[name] = tensor
    check_fit(found, projector.state_dict(), file)
    projector.load_state_dict(found)


def _config(source: Path) -> tuple[dict[str, Any], str]:
    """The original's config and transformers' model type for it; refused where the native classes compute something else."""
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{source} holds no config.json; give the folder of an original LLaVA checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    if "text_config" in config:
        raise ValueError(f"{path} is in transformers' format already; load it as it is")
    config |= {name: value for name, value in DEFAULTS.items() if config.get(name) is None}
    for name, supported in SUPPORTED.items():
        if config[name] not in supported:
            raise ValueError(f"{path}: {name} {config[name]!r} is not supported; supported: {', '.join(map(repr, supported))}")
    if not isinstance(config.get("mm_vision_select_layer"), int):
        raise ValueError(f"{path}: mm_vision_select_layer must be a whole number, got {config.get('mm_vision_select_layer')!r}")
    merge, ratio = config["mm_patch_merge_type"], config["image_aspect_ratio"]
    if (merge, ratio) not in LAYOUTS:
        known = ", ".join(f"{merge!r} with {ratio!r}" for merge, ratio in LAYOUTS)
        what = f"mm_patch_merge_type {merge!r} with image_aspect_ratio {ratio!r}"
        raise ValueError(f"{path}: {what} is not supported; supported: {known}")
    if LAYOUTS[merge, ratio] == "llava_next":
        points = config["image_grid_pinpoints"]
        if not isinstance(points, list) or not points or any(not isinstance(point, list) or len(point) != 2 for point in points):
            raise ValueError(f"{path}: image_grid_pinpoints {points!r} is not supported; 'anyres' needs a list of [width, height]")
        if config["mm_vision_select_feature"] == "cls_patch":
            raise ValueError(f"{path}: mm_vision_select_feature 'cls_patch' with 'anyres' is not supported: a grid has no class token")
    return config, LAYOUTS[merge, ratio]


def _language_config(config: dict[str, Any]) -> Any:
    """The language model's config: the fields that its class knows, since it can compute with no others."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[LANGUAGES[config["model_type"]]]
    known = {field.name for field in fields(kind)} | {"rope_theta", "rope_scaling"}
    return kind(**{name: value for name, value in config.items() if name in known - {"architectures", "transformers_version", "dtype"}})


def _native_config(config: dict[str, Any], kind: str, text: Any, tower: StoredTower, image_id: int) -> Any:
    from transformers import CONFIG_MAPPING

    # SigLIP has no class token to leave out, and the original reads it one layer below the last whatever the config says.
    strategy = STRATEGIES[config["mm_vision_select_feature"]] if tower.has_class_token else "full"
    layer = config["mm_vision_select_layer"] if tower.has_class_token else SIGLIP_LAYER
    # The original's grids are [width, height], transformers' [height, width].
    grids = {"image_grid_pinpoints": [[high, wide] for wide, high in config["image_grid_pinpoints"]]} if kind == "llava_next" else {}
    return CONFIG_MAPPING[kind](
        vision_config=tower.config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_id,
        image_seq_length=tower.patches + int(tower.has_class_token and strategy == "full"),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=text.tie_word_embeddings,
        **grids,
    )


def _model(native: Any, stored: "dict[str, torch.Tensor]", source: Path) -> Any:
    """The native model around the converted tensors, which may still lie in the checkpoint's files."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(native, dtype=stored[EMBEDDINGS].dtype)
    model.load_state_dict(convert(stored, model.state_dict(), source), assign=True)
    model.tie_weights()
    path = source / "generation_config.json"
    named = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{name: named.get(name, getattr(native.text_config, name)) for name in ids})
    return model.eval()


def _write(model: Any, processor: Any, folder: Path) -> None:
    """Writes the folder in one step, after reading back what is in it."""
    import torch
    from transformers import AutoModelForImageTextToText

    with whole_folder(folder) as partial:
        with without_bars():
            model.save_pretrained(partial, max_shard_size="5GB")
            processor.save_pretrained(partial)
            written = AutoModelForImageTextToText.from_pretrained(partial, dtype="auto").state_dict()
        different = [name for name, tensor in model.state_dict().items() if not torch.equal(written[name], tensor)]
        if different:
            raise RuntimeError(f"{len(different)} tensors differ after saving, {different[0]} among them; nothing was written to {folder}")
