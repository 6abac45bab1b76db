"""Vision towers of open_clip as towers of transformers."""

import difflib
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.quiet import without_bars
from model.whole import whole_folder

TOLERANCE = 1e-4  # largest absolute difference allowed between two features, computed in float32
IMAGES = 2  # random images that the two towers are compared on

# Names of open_clip's own transformer and of timm's, rewritten one after the other to those of transformers.
RENAMES = (
    (r"^(conv1|patch_embed\.proj)\.", "embeddings.patch_embedding."),
    (r"^(class_embedding|cls_token)$", "embeddings.class_embedding"),
    (r"^(positional_embedding|pos_embed)$", "embeddings.position_embedding.weight"),
    (r"^(ln|norm)_pre\.", "pre_layrnorm."),
    (r"^(ln_post|norm)\.", "post_layernorm."),
    (r"^(transformer\.res)?blocks\.", "encoder.layers."),
    (r"(\.\d+)\.(ln_|norm)([12])\.", r"\1.layer_norm\3."),
    (r"(\.\d+)\.attn\.(in_proj_|qkv\.)", r"\1.self_attn.qkv_proj."),
    (r"(\.\d+)\.attn\.(out_)?proj\.", r"\1.self_attn.out_proj."),
    (r"(\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"(\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    (r"^attn_pool\.latent$", "head.probe"),
    (r"^attn_pool\.proj\.", "head.attention.out_proj."),
    (r"^attn_pool\.norm\.", "head.layernorm."),
    (r"^attn_pool\.mlp\.", "head.mlp."),
)
# What a weight stands for that only one of two towers has.
MEANINGS = (
    (r"^(head|attn_pool)", "a pooling by attention"),
    (r"^pre_layrnorm", "a norm before the first block"),
    (r"^reg_token", "register tokens"),
    (r"\.ls_?[12]\.", "layer scale"),
    (r"\.(ln_[qk]|[qk]_norm)\.", "norms of queries and keys"),
    (r"\.(logit_scale|head_scale|gate)", "scaled or gated attention"),
    (r"\.(norm|ln|ln_inner|ln_attn)\.", "a further norm"),
    (r"_proj\.bias", "biases in attention"),
)


def convert(name: str, weights: str | Path | None, folder: Path, *, seed: int = 0) -> Path:
    """Writes the vision tower of an open_clip model as a transformers CLIPVisionModel or SiglipVisionModel with its image processor.

    Every hidden state and the pooled output are proven equal before the folder appears; the projection into the space shared with
    text is left behind. The name decides between GELU and QuickGELU, unless the tag, or an `open_clip_config.json` beside the file,
    asks for QuickGELU. The same two say how images are prepared; else it is what all tags of the name agree on, or open_clip's default.

    Args:
        name: An open_clip architecture, such as "ViT-L-14-336" or "ViT-B-16-SigLIP".
        weights: A file with the tensors of the whole model (.safetensors, .pt, .bin), a tag to fetch, or None: random weights.
        folder: Must be absent or empty.
        seed: Draws the random weights; the global random state stays as it was.

    Raises:
        ValueError: A name or tag is unknown, the weights do not fit, transformers has no class for the tower (with the reasons), or
            features differ by more than `TOLERANCE`. Nothing is written then.
        OSError: The weights of a tag cannot be fetched.
    """
    import torch
    from open_clip.transform import PreprocessCfg

    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; give a folder that is absent or empty")
    file, published = _source(name, weights)
    quick_gelu = bool(published.get("quick_gelu"))
    with torch.device("meta"):  # a tower of billions of weights is refused before one is drawn
        sketch = build(name, quick_gelu)
    if reasons := obstacles(sketch):
        raise ValueError(f"{name} fits no vision tower of transformers: {'; '.join(reasons)}")
    processor = _image_processor(vars(PreprocessCfg()) | published, _skeleton(sketch).config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        visual = build(name, quick_gelu)
    if file is not None:
        _trunk(visual).load_state_dict(_read(file, _trunk(visual).state_dict(), name))
    tower = _skeleton(visual)
    tower.load_state_dict(translate(_trunk(visual).state_dict()), assign=True)
    tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions).expand(1, -1)
    differences = compare(visual, tower)
    for where, difference in differences.items():
        if not difference <= TOLERANCE:  # in this form NaN is refused too
            raise ValueError(f"{name}: features differ from {where} on, by {difference:.2g} (allowed: {TOLERANCE:g}); nothing was written")
    origin = f"random, seed {seed}" if weights is None else Path(weights).name
    versions = {package: version(package) for package in ("open_clip_torch", "timm", "torch", "transformers")}
    return _write(tower, processor, {"name": name, "weights": origin, "versions": versions, "largest_differences": differences}, folder)


def build(name: str, quick_gelu: bool = False) -> Any:
    """The named open_clip tower with random weights, in evaluation mode, without its projection into the space shared with text."""
    import open_clip
    from open_clip.model import _build_vision_tower
    from torch.nn import Identity

    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    visual = _build_vision_tower(config["embed_dim"], vision, quick_gelu or config.get("quick_gelu", False))
    # open_clip's own towers project by `proj`, timm's by the head of the trunk or of the wrapper.
    visual.proj, visual.head, _trunk(visual).head, visual.output_tokens = None, Identity(), Identity(), False
    visual.output_dim = config["embed_dim"]
    return visual.eval()


def obstacles(visual: Any) -> list[str]:
    """Says why no class of transformers can hold a tower that `build` gave; empty where one can. Weights may be on the meta device."""
    from open_clip.timm_model import timm
    from open_clip.transformer import VisionTransformer
    from torch.nn import LayerNorm

    trunk = _trunk(visual)
    if type(trunk) not in (VisionTransformer, timm.models.VisionTransformer):
        return [f"its tower is of the kind {type(trunk).__name__}, not a plain vision transformer"]
    if trunk is not visual and type(trunk.patch_embed) is not timm.layers.PatchEmbed:
        return [f"its patches come from a {type(trunk.patch_embed).__name__}, not from one convolution"]
    if len(set(visual.image_size)) > 1 or len(set(_patches(visual).kernel_size)) > 1:
        return [f"images of {visual.image_size} or patches of {_patches(visual).kernel_size} pixels are not square"]
    if None in (activations := {_activation(block) for block in _blocks(visual)}) or len(activations) > 1:
        return [f"transformers has no such activation: {list(_blocks(visual)[0].mlp.children())[1]}"]
    norms = {module.eps for module in trunk.modules() if isinstance(module, LayerNorm)}
    pooling, usual = (trunk.pool_type, "tok") if trunk is visual else (trunk.global_pool, "token" if trunk.has_class_token else "map")
    checks = (
        (pooling != usual, f"it pools by {pooling!r}, not by {usual!r}"),
        (len(norms) > 1, f"its norms use the epsilons {sorted(norms)}, not one"),
        (trunk is visual and not trunk.positional_embedding.requires_grad, "its positions are fixed sines and cosines"),
        (getattr(trunk, "dynamic_img_size", False), "it takes images of any size"),
    )
    tower = _skeleton(visual)
    misfits = _misfits(tower.state_dict(), translate(trunk.state_dict()), MEANINGS)
    return [reason for found, reason in checks if found] + [f"for a {type(tower).__name__}, {misfit}" for misfit in misfits]


def translate(weights: dict[str, Any]) -> dict[str, Any]:
    """Gives the weights of an open_clip or timm transformer the names and shapes of CLIPVisionModel or SiglipVisionModel."""
    import torch

    translated = {}
    for old, tensor in weights.items():
        name = old
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        if ".qkv_proj." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                translated[name.replace(".qkv_proj.", f".{letter}_proj.")] = part.clone()
        elif old.startswith("attn_pool.q."):
            joined = torch.cat([tensor, weights[old.replace(".q.", ".kv.")]])
            translated[old.replace("attn_pool.q.", "head.attention.in_proj_")] = joined
        elif not old.startswith("attn_pool.kv."):
            shape = {"embeddings.class_embedding": [-1], "embeddings.position_embedding.weight": [-1, tensor.shape[-1]]}
            translated[name] = tensor.reshape(shape.get(name, tensor.shape))
    return translated


def compare(visual: Any, tower: Any) -> dict[str, float]:
    """Largest absolute difference between the two towers after the embeddings, after each layer and after pooling, in that order."""
    import torch

    states: list[Any] = []
    hooks = [_blocks(visual)[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda _, __, output: states.append(output)) for block in _blocks(visual)]
    pixels = torch.randn(IMAGES, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused attention rounds otherwise: activations of 1000 would differ by 1e-4
    try:
        with torch.no_grad():
            states.append(visual(pixels))
            outputs = tower(pixel_values=pixels, output_hidden_states=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    for hook in hooks:
        hook.remove()
    places = ["the embeddings", *(f"layer {number}" for number in range(1, len(states) - 1)), "the pooled output"]
    pairs = zip(states, [*outputs.hidden_states, outputs.pooler_output], strict=True)
    return dict(zip(places, [(one - other).abs().max().item() for one, other in pairs], strict=True))


def _source(name: str, weights: str | Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The file of weights and what is published of them: how they want images, and whether they want QuickGELU."""
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise ValueError(f"open_clip has no model {name!r}; the nearest name: {difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]}")
    tags = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    choices = {key: {tag[key] for tag in tags.values()} for key in ("mean", "std", "interpolation", "resize_mode")}
    agreed = {key: values.pop() for key, values in choices.items() if len(values) == 1}
    if weights is None:
        return None, agreed
    if isinstance(weights, str) and (published := open_clip.get_pretrained_cfg(name, weights)):
        return Path(open_clip.download_pretrained(published)), published
    if not Path(weights).is_file():
        raise ValueError(f"{str(weights)!r} is neither a file nor a tag of {name}; its tags: {', '.join(tags) or 'none'}")
    beside = Path(weights).with_name("open_clip_config.json")
    described = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {"preprocess_cfg": agreed}
    return Path(weights), described.get("preprocess_cfg", {}) | {"quick_gelu": described.get("model_cfg", {}).get("quick_gelu", False)}


def _read(file: Path, expected: dict[str, Any], name: str) -> dict[str, Any]:
    """The tensors in `file` under the names in `expected`: all of them, in the same shapes, and no others but a projection."""
    from open_clip.factory import load_state_dict

    try:
        everything = load_state_dict(str(file), weights_only=True)
    except Exception as error:
        raise ValueError(f"{file} holds no tensors that can be read safely ({error}); save them as .safetensors") from error
    tower = {re.sub(r"^visual\.(trunk\.)?", "", key): tensor for key, tensor in everything.items() if key.startswith("visual.")}
    tower = {key: tensor for key, tensor in tower.items() if not re.match(r"proj$|head\.", key)}
    if misfits := _misfits(expected, tower):
        raise ValueError(f"the weights in {file} do not fit the vision tower of {name}; {'; '.join(misfits)}")
    return tower


def _misfits(expected: dict[str, Any], found: dict[str, Any], meanings: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """What only one of two sets of weights has, or each in another shape, by its meaning where one is known."""
    kinds = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": {key for key in expected.keys() & found.keys() if expected[key].shape != found[key].shape},
    }
    named = {kind: {next((word for part, word in meanings if re.search(part, key)), key) for key in keys} for kind, keys in kinds.items()}
    return [f"{kind}: {', '.join(sorted(names)[:5])}{' ...' * (len(names) > 5)}" for kind, names in named.items() if names]


def _trunk(visual: Any) -> Any:
    return getattr(visual, "trunk", visual)  # towers from timm are wrapped


def _blocks(visual: Any) -> Any:
    return visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks


def _patches(visual: Any) -> Any:
    return visual.trunk.patch_embed.proj if hasattr(visual, "trunk") else visual.conv1


def _activation(block: Any) -> str | None:
    """The name in transformers of what follows the first linear layer of a block's MLP, told by its values."""
    import torch
    from transformers.activations import ACT2FN

    points = torch.linspace(-6, 6, 100)
    values = list(block.mlp.children())[1](points.clone())
    names = ("gelu", "quick_gelu", "gelu_pytorch_tanh", "relu", "silu")
    return next((name for name in names if torch.allclose(ACT2FN[name](points), values, rtol=0, atol=1e-6)), None)


def _skeleton(visual: Any) -> Any:
    """The transformers tower of the same shape, in evaluation mode, with its weights on the meta device."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    block, is_clip = _blocks(visual)[0], getattr(_trunk(visual), "has_class_token", True)
    config = (CLIPVisionConfig if is_clip else SiglipVisionConfig)(
        hidden_size=_patches(visual).out_channels,
        intermediate_size=next(block.mlp.children()).out_features,
        num_hidden_layers=len(_blocks(visual)),
        num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=_patches(visual).kernel_size[0],
        hidden_act=_activation(block),
        layer_norm_eps=next(module.eps for module in block.children() if isinstance(module, torch.nn.LayerNorm)),
    )
    if is_clip:
        config.projection_dim = visual.output_dim
    with torch.device("meta"):
        return (CLIPVisionModel if is_clip else SiglipVisionModel)(config).eval()


def _image_processor(preparation: dict[str, Any], config: Any) -> Any:
    from PIL.Image import Resampling
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    mode, side = preparation["resize_mode"], {"height": config.image_size, "width": config.image_size}
    if mode not in (sizes := {"shortest": {"shortest_edge": config.image_size}, "squash": side}):
        raise ValueError(f"no image processor of transformers resizes by {mode!r}; give weights prepared for one of: {', '.join(sizes)}")
    return (CLIPImageProcessor if config.model_type == "clip_vision_model" else SiglipImageProcessor)(
        size=sizes[mode],
        do_center_crop=mode == "shortest",
        crop_size=side,  # LlavaProcessor counts image tokens by it, cropped or not
        resample=Resampling[preparation["interpolation"].upper()],
        image_mean=list(preparation["mean"]),
        image_std=list(preparation["std"]),
    )


def _write(tower: Any, processor: Any, report: dict[str, Any], folder: Path) -> Path:
    with whole_folder(folder) as partial:
        with without_bars():
            tower.save_pretrained(partial)
        processor.save_pretrained(partial)
        (partial / "open_clip.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return folder
