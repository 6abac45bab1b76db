"""Bytes that a training's state takes on each GPU."""

from dataclasses import dataclass

BF16, FP32 = 2, 4  # bytes
OPTIMIZER = 3 * FP32  # master weight, first moment, second moment


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU, activations and buffers not counted.

    Attributes:
        weights: Of the whole model, in bfloat16.
        gradients: Of what trains, in bfloat16.
        optimizer: AdamW's states and the float32 master weights of what trains.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer


def per_gpu(total: int, trainable: int, *, stage: int, gpus: int) -> Memory:
    """What ZeRO stage 0 to 3 leaves on each GPU (arXiv 1910.02054, figure 1, with only some parameters trainable).

    Args:
        total: Parameters of the model.
        trainable: Those that train.
        stage: 0 partitions nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        gpus: GPUs that share the work, at least 1.

    Raises:
        ValueError: There is no such stage, or no GPU.
    """
    if stage not in range(4):
        raise ValueError(f"ZeRO stage: got {stage}, expected 0, 1, 2 or 3")
    if gpus < 1:
        raise ValueError(f"number of GPUs: got {gpus}, expected 1 or more")

    def share(count: int, from_stage: int) -> int:
        return -(-count // gpus) if stage >= from_stage else count

    return Memory(weights=BF16 * share(total, 3), gradients=BF16 * share(trainable, 2), optimizer=OPTIMIZER * share(trainable, 1))
