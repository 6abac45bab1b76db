"""Which tokens look at which: the kernel for a run's rows, the inputs that tell it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from model import varlen

Rows = Literal["padded", "packed", "trees"]
FLAT = ("flash_attention_2", varlen.NAME)
"""Kernels that want packed samples in one line with their bounds, without padding; the others want `visible_until`."""
MULTIMODAL_POSITIONS = ("qwen2_5_vl", "qwen3_vl")
"""Families that place tokens in time, height and width (mRoPE)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to compute attention with.

    Attributes:
        cuda: Whether the model stands on a GPU.
        flash: Whether the flash-attn package can be used.
        varlen: Whether torch's own attention for rows of many lengths can be used.
    """

    cuda: bool
    flash: bool
    varlen: bool


def this_machine() -> Machine:
    """What the machine at hand has."""
    from transformers.utils import is_flash_attn_2_available

    return Machine(cuda=torch.cuda.is_available(), flash=bool(is_flash_attn_2_available()), varlen=varlen.is_available())


def at_load(name: str) -> str:
    """The kernel to load a model with; which other one it is to use depends on its rows, and is said later by `use`."""
    return "eager" if name == "eager" else "sdpa"


def kernel(name: str, model: Any, *, rows: Rows, machine: Machine, half: bool) -> str:
    """The kernel for a run.

    `auto` takes sdpa for padded rows or on a CPU; on a GPU for packed rows flash-attn, where it is not installed torch's own kernel, where
    that is missing or the run computes in fp32, sdpa; for tree rows flex.

    Args:
        name: The recipe's `model.attention`.
        model: A LLaVA-style model, or a text-only causal model; on the meta device will do.
        rows: "padded": one sample a row. "packed": several. "trees": also dialogues that share their beginnings.
        machine: From `this_machine`.
        half: Whether the run computes in bf16 or fp16.

    Returns:
        Its name in transformers, for `use`.

    Raises:
        ValueError: This kernel cannot do it; the message says why, and what to give.
    """
    chosen = _best(rows, machine, half) if name == "auto" else name
    problem = _obstacle(chosen, model, rows, machine) or _precision_problem(chosen, half)
    if problem is not None:
        raise ValueError(f"model.attention: {chosen} {problem}")
    return chosen


def tree_obstacle(name: str, model: Any, machine: Machine) -> str | None:
    """Why dialogues of trees cannot share rows under the recipe's `model.attention`, so that each path needs its own; None: they can."""
    chosen = _best("trees", machine, half=True) if name == "auto" else name
    problem = _obstacle(chosen, model, "trees", machine)
    return None if problem is None else f"{chosen} attention {problem}"


def use(model: Any, name: str) -> None:
    """Switches a model to a kernel.

    The vision tower takes part only in `eager`: its pictures are whole, so that sdpa is as fast, while arguments meant for packed rows of
    text would reach some families' towers.

    Args:
        model: Changed in place.
        name: From `kernel`.
    """
    if name == varlen.NAME:
        varlen.register()
    if not hasattr(model.config, "vision_config"):
        model.set_attn_implementation(name)
        return
    model.set_attn_implementation({"": at_load(name), "text_config": name, "vision_config": at_load(name)})


def kernel_of(model: Any) -> str:
    """The kernel that a model is switched to."""
    return str(model.config.get_text_config()._attn_implementation)


def attention_inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a forward pass takes in place of a batch's `visible_until` and plain positions.

    The mask is always explicit. Left to itself, transformers makes one from the positions, but only without a cache, and a new sample
    wherever they jump, which they also do from one branch of a tree to the next.

    Args:
        model: The model behind any wrapper, switched to its kernel by `use`.
        batch: The forward pass's inputs on the model's device, with `visible_until` int32 [rows, tokens] where rows are packed (token q may
            look at token k iff k <= q < visible_until[k]); with the arguments that flash attention wants where they are flat.

    Returns:
        The same, but with a mask for the kernel, [rows, 1, tokens, tokens], under `attention_mask` instead of `visible_until`, and, for
        families with multimodal positions, `position_ids` int64 [4, rows, tokens].
    """
    inputs = dict(batch)
    visible_until = inputs.pop("visible_until", None)
    if visible_until is not None:
        inputs["attention_mask"] = mask(visible_until, kernel_of(model), model.dtype)
    if "position_ids" in inputs and model.config.model_type in MULTIMODAL_POSITIONS:
        inputs["position_ids"] = packed_positions(model, inputs)
    return inputs


def mask(visible_until: torch.Tensor, name: str, dtype: torch.dtype) -> Any:
    """A mask in the form that a kernel takes.

    Args:
        visible_until: int32 [rows, tokens]: token q may look at token k iff k <= q < visible_until[k]. Every token can look at itself.
        name: "sdpa", "eager" or "flex_attention".
        dtype: The type in which eager attention adds its mask to the scores.

    Returns:
        sdpa: bool [rows, 1, tokens, tokens]. eager: the same as numbers, 0 where a token may look. flex: a `BlockMask`, for which nothing
        of that size is ever held on a GPU.
    """
    assert name not in FLAT, f"{name} takes flat rows, not a mask"
    if name == "flex_attention":
        return _block_mask(visible_until)
    at = torch.arange(visible_until.shape[1], device=visible_until.device, dtype=visible_until.dtype)
    allowed = (at[:, None] < visible_until[:, None, None, :]).tril_()
    if name == "eager":
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)
    return allowed


def _block_mask(visible_until: torch.Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < visible_until[row, key])

    rows, tokens = visible_until.shape
    device = visible_until.device
    return create_block_mask(allowed, rows, None, tokens, tokens, device=device, _compile=device.type == "cuda")


def packed_positions(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Positions of packed samples in time, height and width, each sample's as if it stood alone.

    The model's own positions of the whole row grow from one sample to the next, pictures or not; each sample's are those less what they
    are at its first token.

    Args:
        model: Of a family of `MULTIMODAL_POSITIONS`.
        batch: `input_ids`, `position_ids` (from 0 within each sample), `mm_token_type_ids`, each [rows, tokens]; with pictures
            `image_grid_thw` [pictures, 3]. No trees.

    Returns:
        int64 [4, rows, tokens]: the plain positions, then time, height, width.
    """
    # On a GPU the model's own code would wait for every picture.
    names = ("input_ids", "position_ids", "mm_token_type_ids", "image_grid_thw")
    here = {name: batch[name].cpu() for name in names if name in batch}
    plain = here.pop("position_ids")
    spread, _ = model.model.get_rope_index(**here)
    first = torch.arange(plain.shape[1]) - plain
    own = spread - spread.gather(2, first.expand_as(spread))
    return torch.cat([plain[None], own]).to(batch["position_ids"].device)


def _best(rows: Rows, machine: Machine, half: bool) -> str:
    if rows == "padded" or not machine.cuda:
        return "sdpa"
    if rows == "trees":
        return "flex_attention"
    if half and machine.flash:
        return "flash_attention_2"
    return varlen.NAME if half and machine.varlen else "sdpa"


def _obstacle(chosen: str, model: Any, rows: Rows, machine: Machine) -> str | None:
    """What keeps a kernel from these rows on this machine, as the end of a sentence."""
    if chosen in FLAT and rows == "trees":
        return "cannot let dialogues of a tree share a row; give auto"
    if rows == "trees" and model.config.model_type in MULTIMODAL_POSITIONS:
        return f"cannot let dialogues of a tree share a row of {model.config.model_type}, which places tokens in three dimensions"
    if chosen == varlen.NAME and rows == "padded":
        return "takes packed rows alone; set data.packing, or give sdpa"
    if chosen == "flex_attention" and not model.get_decoder()._supports_flex_attn:
        return f"does not go with {model.config.model_type} in transformers; give auto"
    if rows != "padded" and chosen != "flash_attention_2":
        windows = _windows(model.config.get_text_config())
        if windows is not None:
            return f"cannot pack rows for a model with layers of kind {windows}; leave data.packing out, or use flash_attention_2 on a GPU"
    return _missing(chosen, machine)


def _missing(chosen: str, machine: Machine) -> str | None:
    if chosen in FLAT and not machine.cuda:
        return "computes on a GPU alone, and there is none; give auto"
    if chosen == "flex_attention" and not machine.cuda:
        return "has no backward pass without a GPU; give auto"
    if chosen == "flash_attention_2" and not machine.flash:
        return "needs the package flash-attn, which is not installed; install it (pip install flash-attn), or give auto"
    if chosen == varlen.NAME and not machine.varlen:
        return f"is not in torch {torch.__version__}; take a newer torch, or give auto"
    return None


def _precision_problem(chosen: str, half: bool) -> str | None:
    if chosen in FLAT and not half:
        return "computes in bf16 alone, and this run is in fp32; set train.precision: bf16, or give auto"
    return None


def _windows(text: Any) -> str | None:
    """The kinds of layers that see only a part of what lies before a token; None: all see all of it."""
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return "sliding_attention" if getattr(text, "sliding_window", None) is not None else None
    return ", ".join(sorted(set(kinds) - {"full_attention"})) or None
