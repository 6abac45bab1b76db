"""transformers' Trainer with our order, loss, optimizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from data.collate import Collator
from data.dataset import MixedDataset
from model.manifest import Manifest
from train.blank import blank_inputs
from train.config import TrainConfig
from train.losses import cross_entropy, loss_weight, predicting_positions
from train.optim import build_optimizer
from train.precision import resolved
from train.rows import micro_batches

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
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
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
        self._blank = blank_inputs(model, collator.pictures)

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
