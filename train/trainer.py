"""transformers' Trainer with our order, loss, optimizer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from data.collate import Collator
from data.dataset import MixedDataset
from model.layout import layout_of
from model.manifest import Manifest
from train.config import TrainConfig
from train.losses import cross_entropy, loss_weight, predicting_positions
from train.optim import build_optimizer
from train.precision import resolved
from train.rows import micro_batches

BLANK = 56  # pixels a side: the smallest picture that every family's processor takes
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments(
    config: TrainConfig, *, steps: int, processes: int, deepspeed: dict[str, Any], folder: str, loader_workers: int = 0
) -> TrainingArguments:
    """The Trainer's settings for a recipe's `train` section."""
    micro, accumulation = micro_batches(config, processes)
    return TrainingArguments(
        output_dir=folder,
        deepspeed=deepspeed,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=round(config.warmup_share * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=resolved(config.precision) == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a broken loss behind an average
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=loader_workers,
        log_level="error",
    )


class MixtureTrainer(Trainer):
    """Trains on a planned order of samples, the loss summed over its tokens and divided by their number in the global batch.

    Args:
        model: A LLaVA-style model, or a text-only causal model.
        manifest: What trains, with learning rates.
        args: From `arguments`.
        dataset: The samples, in order.
        collator: Makes batches of them.
        callbacks: Called beside the steps.
    """

    # The loss is divided by the number of tokens of the whole step, so accumulation must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        manifest: Manifest,
        args: TrainingArguments,
        dataset: MixedDataset,
        collator: Collator,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.manifest = manifest
        self.penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None
        before = dict(vars(model.config))
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collator, callbacks=callbacks)
        # Else the Trainer counts no tokens for families that do not take the count (Qwen-VL), and accumulation sums means.
        self.model_accepts_loss_kwargs = True
        # The Trainer turns the key-value cache off in the config, which would be saved; compute_loss turns it off where it matters.
        if "use_cache" in before:
            model.config.use_cache = before["use_cache"]
        else:
            del model.config.use_cache
        self.remove_callback(PrinterCallback)
        self.shows_a_blank = False
        self._blank = collator.pictures.inputs([[np.zeros((BLANK, BLANK, 3), np.uint8)]]) if _needs_pictures(model) else None

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the trainable parameters, in the groups of train/optim.py."""
        existing: Any = getattr(self, "optimizer", None)
        if existing is None:
            existing = build_optimizer(self.model, self.manifest)
            self.optimizer = existing
        return existing

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """This micro batch's part of the step's loss: its sum over the tokens of the global batch."""
        labels, weights = inputs.pop("labels"), inputs.pop("loss_weights", None)
        inputs.pop("segment_ids", None)  # positions say the same
        positions = predicting_positions(labels)
        self.shows_a_blank = self._blank is not None and "pixel_values" not in inputs
        if self._blank is not None and self.shows_a_blank:
            # Every parameter that trains needs a gradient on every rank, else collectives wait for ever.
            inputs |= {name: tensor.to(labels.device) for name, tensor in self._blank.items()}
        outputs = model(**inputs, logits_to_keep=positions, use_cache=False)
        total, count = cross_entropy(outputs.logits, labels[:, positions + 1], None if weights is None else weights[:, positions + 1])
        if self.penalty is not None:
            total = total + count * self.penalty(self.model)  # as if on every token, so that micro batches add up to one penalty
        loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        # DeepSpeed averages over processes what is to be a sum.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """What the step's loss is divided by: the weights of its tokens, over all processes."""
        total = torch.stack([loss_weight(batch) for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum().float()

    def save_progress(self, folder: str) -> None:
        """Writes engine, schedule, random numbers, step count in the form that `train(resume_from_checkpoint=...)` reads; a collective."""
        self._save_optimizer_and_scheduler(folder)
        self._save_rng_state(folder)
        if self.args.should_save:
            self.state.save_to_json(str(Path(folder) / TRAINER_STATE_NAME))

    def close(self) -> None:
        """Closes the callbacks' files; lets go of the engine, whose hooks on the parameters would else keep it for ever."""
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "close"):
                callback.close()
        engine: Any = getattr(self, "deepspeed", None)
        if engine is not None:
            engine.destroy()
        self.deepspeed = self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's estimate knows neither frozen parts nor pictures."""
        return 0


@contextmanager
def text_only_batches(trainer: MixtureTrainer) -> Iterator[None]:
    """Lets a batch without pictures carry one that no token stands for.

    It goes through tower and projector on the same way as any other; of its features no row is left, so that they enter nowhere and every
    gradient there is an exact zero.
    """
    inner: Any = getattr(trainer.model, "model", None)
    if not hasattr(inner, "get_image_features"):
        yield
        return
    features = inner.get_image_features

    def none_left_of_a_blank(*arguments: Any, **options: Any) -> Any:
        found = features(*arguments, **options)
        if trainer.shows_a_blank:
            for name in ("pooler_output", "deepstack_features"):
                if getattr(found, name, None) is not None:
                    setattr(found, name, _no_rows(getattr(found, name)))
        return found

    inner.get_image_features = none_left_of_a_blank
    try:
        yield
    finally:
        del inner.get_image_features


def _no_rows(features: Any) -> Any:
    """The same nest of tensors, each without its rows."""
    return features[:0] if isinstance(features, torch.Tensor) else type(features)(_no_rows(one) for one in features)


def _needs_pictures(model: Any) -> bool:
    """Whether a batch must pass the tower for every parameter that trains to have a gradient."""
    if not hasattr(model.config, "vision_config"):
        return False
    layout = layout_of(model.config)
    trains = {layout.part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return bool(trains & {"vision_tower", "projector"})
