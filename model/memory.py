"""Bytes that a training's state takes on each GPU, as DeepSpeed lays it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

Precision = Literal["fp32", "bf16"]
Offload = Literal["none", "optimizer", "weights"]

BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
FP32 = BYTES["fp32"]
MOMENTS, MASTER = 2 * FP32, FP32  # AdamW's two states of a number, its float32 copy
BUCKET, SUB_GROUP, LIVE = 5 * 10**8, 10**9, 10**9  # DeepSpeed's defaults: numbers reduced, stepped, gathered at once
EVEN = 2  # partitions of ZeRO-1 and 2 hold an even count of numbers, for NCCL's alignment


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How many numbers each tensor of a model holds.

    Attributes:
        trained: For each parameter group of the optimizer its tensors, in order.
        frozen: Tensors that do not train.
    """

    trained: tuple[tuple[int, ...], ...]
    frozen: tuple[int, ...] = ()

    @property
    def trainable(self) -> int:
        """Numbers that train."""
        return sum(map(sum, self.trained))

    @property
    def total(self) -> int:
        """All numbers."""
        return self.trainable + sum(self.frozen)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What decides where state lies.

    Attributes:
        stage: ZeRO's: 0 partitions nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        gpus: GPUs that share the work, at least 1.
        precision: Of weights and gradients.
        offload: What lies in the host's memory: nothing, the optimizer, or the weights too (stage 3).
        passes: Micro batches of a step on each GPU.
        bucket: Numbers that are reduced at once; None: DeepSpeed's default.
        persistent: Stage 3: tensors of up to so many numbers stay whole on every GPU.
        prefetch: Stage 3: numbers that are gathered ahead of their use.
    """

    stage: int
    gpus: int = 1
    precision: Precision = "bf16"
    offload: Offload = "none"
    passes: int = 1
    bucket: int | None = None
    persistent: int = 0
    prefetch: int = 0

    def __post_init__(self) -> None:
        if self.stage not in range(4):
            raise ValueError(f"ZeRO stage: got {self.stage}, expected 0, 1, 2 or 3")
        if self.gpus < 1:
            raise ValueError(f"number of GPUs: got {self.gpus}, expected 1 or more")
        lowest = {"none": 0, "optimizer": 2, "weights": 3}[self.offload]
        if self.stage < lowest:
            raise ValueError(f"ZeRO stage {self.stage} cannot offload the {self.offload}; take stage {lowest}")


@dataclass(frozen=True, kw_only=True)
class State:
    """Bytes in one place.

    Attributes:
        weights: Of the whole model, or of what this GPU holds of it.
        gradients: Of what trains, when they are all there.
        optimizer: AdamW's states and the float32 master weights of what trains.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one GPU holds, what its process holds in the host's memory.

    Attributes:
        gpu: On the GPU, activations not counted.
        host: In the host's memory, by offloading.
        buffers: What the engine takes on the GPU besides, by name, some of it only for a time; at its largest.
    """

    gpu: State
    host: State = field(default_factory=State)
    buffers: dict[str, int] = field(default_factory=dict)


def per_gpu(numbers: Numbers, engine: Engine) -> Memory:
    """What a ZeRO stage leaves on each GPU (arXiv 1910.02054, figure 1, with only some parameters trainable), padding included.

    Exact for DeepSpeed 0.19: bf16 weights always have a float32 master; fp32 weights have one too under ZeRO-1 to 3, none without ZeRO.
    """
    whole = _partitioned if engine.stage == 3 else _flat if engine.stage else _replicated
    return whole(numbers, engine)


def _replicated(numbers: Numbers, engine: Engine) -> Memory:
    size, trainable = BYTES[engine.precision], numbers.trainable
    master = MASTER if engine.precision == "bf16" else 0
    buffers = {"reduction": size * min(BUCKET, trainable) if engine.gpus > 1 else 0, "gradients in fp32, at the step": master * trainable}
    state = State(weights=size * numbers.total, gradients=size * trainable, optimizer=(MOMENTS + master) * trainable)
    return Memory(gpu=state, buffers=_present(buffers))


def _flat(numbers: Numbers, engine: Engine) -> Memory:
    """Stages 1 and 2: each parameter group is one flat tensor, cut into equal partitions."""
    size, offloads = BYTES[engine.precision], engine.offload != "none"
    shares = [_shared(sum(group), engine.gpus * EVEN) * EVEN for group in numbers.trained]
    held = sum(shares)
    touched = max(
        sum(_touched(group, share, rank) for group, share in zip(numbers.trained, shares, strict=True)) for rank in range(engine.gpus)
    )
    weights = size * (held * engine.gpus + sum(numbers.frozen))
    optimizer = (MOMENTS + MASTER) * held
    buffers = {"reduction": size * (BUCKET if engine.bucket is None else engine.bucket)}
    if offloads:
        largest = max((one for group in numbers.trained for one in group), default=0)
        before = size * touched if engine.passes > 1 else 0
        host = State(weights=size * held, gradients=FP32 * held + before, optimizer=optimizer)
        return Memory(gpu=State(weights=weights), host=host, buffers=_present(buffers | {"largest gradient": size * largest}))
    gradients = size * (touched if engine.stage == 2 else numbers.trainable)
    if engine.stage == 2 and engine.passes > 1:
        buffers["gradients of one micro batch"] = gradients
    buffers["gradients in fp32, at the step"] = FP32 * max(shares, default=0)
    return Memory(gpu=State(weights=weights, gradients=gradients, optimizer=optimizer), buffers=_present(buffers))


def _partitioned(numbers: Numbers, engine: Engine) -> Memory:
    """Stage 3: each tensor is cut for itself; small ones stay whole besides."""
    size, gpus = BYTES[engine.precision], engine.gpus
    trained = [sum(_shared(one, gpus) for one in group) for group in numbers.trained]
    held, frozen = sum(trained), sum(_shared(one, gpus) for one in numbers.frozen)
    every = [one for group in (*numbers.trained, numbers.frozen) for one in group]
    kept = sum(one for one in every if one <= engine.persistent) if gpus > 1 or engine.offload == "weights" else 0
    weights, optimizer = size * (held + frozen), (MOMENTS + MASTER) * held
    buffers = {
        "reduction": size * (BUCKET if engine.bucket is None else engine.bucket),
        "prefetch": size * engine.prefetch,
        "weights gathered at once, at most": size * min(LIVE, numbers.total) if gpus > 1 or engine.offload == "weights" else 0,
    }
    if engine.offload == "none":
        buffers["gradients in fp32, at the step"] = FP32 * min(SUB_GROUP, max(trained, default=0))
        state = State(weights=weights + size * kept, gradients=size * held, optimizer=optimizer)
        return Memory(gpu=state, buffers=_present(buffers))
    host = State(gradients=(FP32 + size) * held, optimizer=optimizer)
    if engine.offload == "optimizer":
        return Memory(gpu=State(weights=weights + size * kept), host=host, buffers=_present(buffers))
    host = State(weights=weights, gradients=host.gradients, optimizer=optimizer)
    return Memory(gpu=State(weights=size * kept), host=host, buffers=_present(buffers))


def _shared(count: int, parts: int) -> int:
    return -(-count // parts)


def _touched(group: Sequence[int], share: int, rank: int) -> int:
    """Numbers of the tensors that lie in a rank's partition, each as a whole: gradients are kept tensor by tensor."""
    ends = list(accumulate(group))
    return sum(one for one, end in zip(group, ends, strict=True) if end > rank * share and end - one < (rank + 1) * share)


def _present(buffers: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in buffers.items() if size}
