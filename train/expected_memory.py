"""The memory that a run would take on each GPU."""

from dataclasses import asdict
from typing import Any

from model.memory import BYTES, Engine, Numbers, Offload, per_gpu
from train.config import Recipe
from train.expected_data import Expected


def reckon(model: Any, recipe: Recipe, manifest: Any, engine: Engine, expected: Expected) -> dict[str, Any]:
    """Bytes on each GPU; weights, gradients, optimizer, teachers exact, activations estimated, buffers at their largest.

    Args:
        model: On the meta device, what trains chosen.
        recipe: The recipe.
        manifest: What trains.
        engine: From `engine_of`.
        expected: How large rows are.
    """
    from model.activations import Batch, Means, estimate
    from train.head import CHUNK
    from train.optim import parameter_groups

    groups = tuple(tuple(one.numel() for one in group["params"]) for group in parameter_groups(model, manifest))
    names = {tensor.name for tensor in manifest.tensors}
    frozen = tuple(parameter.numel() for name, parameter in model.named_parameters() if name not in names)
    memory = per_gpu(Numbers(trained=groups, frozen=frozen), engine)
    teachers = _teachers(model, recipe, names, engine)
    micro = recipe.train.micro_batch_size or max(1, recipe.train.batch_size // engine.gpus)
    batch = Batch(rows=micro, width=expected.width, positions=micro * _positions(model.config, expected), chunk=CHUNK)
    assert recipe.model is not None
    means = Means(
        precision=engine.precision,
        checkpointing=recipe.train.gradient_checkpointing,
        eager=recipe.model.attention == "eager",
        partitioned=engine.stage == 3,
    )
    activations = estimate(model, names, batch, means)
    return {
        "zero": recipe.train.zero,
        "precision": engine.precision,
        "gpu": asdict(memory.gpu),
        "teachers": teachers,
        "exact": memory.gpu.total + teachers,
        "activations_estimated": activations,
        "with_activations_estimated": memory.gpu.total + teachers + activations,
        "buffers": memory.buffers,
        "host": asdict(memory.host),
    }


def engine_of(recipe: Recipe, config: Any, trainable: int, *, gpus: int, passes: int) -> Engine:
    """How DeepSpeed lays a recipe's state out, as zero_configs/ and the Trainer's "auto" values say."""
    from train.distributed import zero_config
    from train.precision import resolved

    zero = zero_config(recipe.train.zero, trainable)["zero_optimization"]
    hidden = getattr(config, "hidden_size", None) or config.get_text_config().hidden_size
    automatic = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_param_persistence_threshold": 10 * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
    }
    sizes = {name: value if zero.get(name) == "auto" else zero.get(name) for name, value in automatic.items()}
    offload: Offload = "weights" if "offload_param" in zero else "optimizer" if "offload_optimizer" in zero else "none"
    return Engine(
        stage=zero["stage"],
        gpus=gpus,
        precision="bf16" if resolved(recipe.train.precision) == "bf16" else "fp32",
        offload=offload,
        passes=passes,
        bucket=sizes["reduce_bucket_size"],
        persistent=sizes["stage3_param_persistence_threshold"] or 0,
        prefetch=sizes["stage3_prefetch_bucket_size"] or 0,
    )


def _teachers(model: Any, recipe: Recipe, names: set[str], engine: Engine) -> int:
    """Bytes of what `train.distill` keeps: what trains outside of adapters; under ZeRO-3, or for a named one, a whole model."""
    from model.siamese import additions

    size = BYTES[engine.precision]
    own = {id(one) for one in additions(model)}
    kept = sum(one.numel() for name, one in model.named_parameters() if name in names and id(one) not in own)
    whole = sum(one.numel() for one in model.parameters())
    found = 0
    for teacher in {term.teacher for term in recipe.train.losses if term.is_distilled}:
        if teacher is not None:
            found += size * _parameters_of(teacher)
        elif kept:
            found += size * (whole if engine.stage == 3 else kept)
    return found


def _parameters_of(teacher: str) -> int:
    from model.architectures import on_meta
    from model.sketch import config_of

    return sum(parameter.numel() for parameter in on_meta(config_of(teacher, "train.losses: teacher")).parameters())


def _positions(config: Any, expected: Expected) -> int:
    """What the fullest row sends through the vision tower; where pictures have no fixed size, as if the row were nothing but pictures."""
    vision = getattr(config, "vision_config", None)
    if vision is None or expected.most_images == 0:
        return 0
    if config.model_type == "llava":
        return (expected.most_images or 1) * ((vision.image_size // vision.patch_size) ** 2 + 1)
    return expected.width * int(getattr(vision, "spatial_merge_size", 1)) ** 2
