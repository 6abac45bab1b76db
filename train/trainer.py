"""transformers' Trainer with our order, loss, optimizer."""

import signal
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from data.collate import Collator
from data.dataset import MixedDataset
from model.attention import attention_inputs
from model.manifest import Manifest
from train import distributed, preempt
from train.blank import blank_inputs
from train.config import TrainConfig
from train.losses import labelled_rows
from train.objective import Objective
from train.optim import build_optimizer
from train.precision import resolved
from train.rows import micro_batches

TOLD = {"labels", "loss_weights", "predictors", "sources", "text_only"}
"""What a batch holds besides the inputs of a model's forward pass."""
ROWS = "rows"
"""What stands in a batch in place of `TOLD` once the step's tokens are counted: its tokens that carry loss, a `train.losses.Rows`."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments(
    config: TrainConfig, *, steps: int, processes: int, deepspeed: dict[str, Any], folder: str, loader_workers: int = 0
) -> TrainingArguments:
    """The Trainer's settings for a recipe's `train` section."""
    micro, accumulation = micro_batches(config, processes)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*gradient_checkpointing", category=FutureWarning
        )  # the new name is newer than the floor
        return TrainingArguments(
            output_dir=folder,
            deepspeed=deepspeed,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type=SCHEDULES[config.schedule],
            warmup_steps=config.warmup_steps(steps),
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


class RowsFrom(SequentialSampler):
    """The rows of the plan in order, from one of them on; its length is the whole plan's, from which the Trainer reckons its epochs."""

    def __init__(self, rows: Any, first: int) -> None:
        super().__init__(rows)
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first, len(self)))


def _deaf(prepare: Callable[[int], None] | None, number: int) -> None:
    """What a process that reads pictures does first: it ignores requests to stop, which may reach all processes of a job."""
    for one in preempt.SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    if prepare is not None:
        prepare(number)


class MixtureTrainer(Trainer):
    """Trains on a planned order of samples, the loss summed over its tokens and divided by their number in the global batch.

    Args:
        model: A LLaVA-style model, or a text-only causal model.
        manifest: What trains, with learning rates.
        args: From `arguments`.
        dataset: The samples, in order.
        collator: Makes batches of them.
        objective: What is minimised.
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
        objective: Objective,
    ) -> None:
        self.manifest, self.objective = manifest, objective
        self.stop_asked: Callable[[], bool] = lambda: False
        self.stop_agreed = False
        self.first_row = 0
        self.penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None
        before = dict(vars(model.config))
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collator)
        # Else the Trainer counts no tokens for families that do not take the count (Qwen-VL), and accumulation sums means.
        self.model_accepts_loss_kwargs = True
        # The Trainer turns the key-value cache off in the config, which would be saved; compute_loss turns it off where it matters.
        if "use_cache" in before:
            model.config.use_cache = before["use_cache"]
        else:
            del model.config.use_cache
        self.remove_callback(PrinterCallback)
        self.shows_a_blank = False
        partitioned = args.world_size > 1 and args.hf_deepspeed_config.is_zero3()
        self._blank = blank_inputs(model, collator.pictures, partitioned=partitioned)

    def _get_train_sampler(self, train_dataset: Any = None) -> "RowsFrom":
        return RowsFrom(self.train_dataset if train_dataset is None else train_dataset, self.first_row)

    def _prepare_for_training(self, *arguments: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments)
        distributed.keep_gradient_norm(self.deepspeed)
        # Checkpointing has made every embedding's output ask for a gradient, for a way of checkpointing that is not ours: frozen layers
        # below the first that trains, the whole tower among them, would run backward for nothing.
        if hasattr(self.model, "disable_input_require_grads"):
            self.model.disable_input_require_grads()
        return prepared

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As the Trainer's, which casts every number to the engine's precision, but for those that only the loss reads."""
        return super()._prepare_inputs({name: value for name, value in inputs.items() if name != ROWS}) | {ROWS: inputs[ROWS]}

    def get_train_dataloader(self) -> Any:
        """As the Trainer's; processes that read pictures leave requests to stop to the rank, which would fail if they ended."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        inner.worker_init_fn = partial(_deaf, inner.worker_init_fn)
        return loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the trainable parameters, in the groups of train/optim.py."""
        existing: Any = getattr(self, "optimizer", None)
        if existing is None:
            existing = build_optimizer(self.model, self.manifest)
            self.optimizer = existing
        return existing

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """This micro batch's part of the step's loss: its sum over the tokens of the global batch."""
        rows = inputs.pop(ROWS)
        inputs = attention_inputs(self.model, inputs) | {"use_cache": False}
        self.shows_a_blank = self._blank is not None and "pixel_values" not in inputs
        # Every parameter that trains needs a gradient on every rank, else collectives wait for ever.
        self._blank = self._blank and {name: tensor.to(rows.labels.device) for name, tensor in self._blank.items()}
        blank = self._blank if self._blank and self.shows_a_blank else {}
        shares = self.objective.shares(num_items_in_batch)
        loss = self.objective.loss(model, rows, inputs, blank, shares)
        if self.penalty is not None:
            # as if on every token, so that micro batches add up to one penalty
            loss = loss + (shares * self.objective.counts(rows)).sum() * self.penalty(self.model)
        # DeepSpeed averages over processes what is to be a sum.
        loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """What the terms of the step's loss are divided by, over all processes; agrees on whether to stop behind the step.

        The tokens that carry loss are found here, once, before anything is cast.
        """
        for batch in batch_samples:
            self.objective.tally.saw(batch)
            batch[ROWS] = labelled_rows(batch, with_prompts=self.objective.needs_prompts)
            for name in TOLD & batch.keys():
                del batch[name]
        own = torch.stack([self.objective.counts(batch[ROWS]) for batch in batch_samples]).sum(dim=0).to(device)
        told = torch.cat([own, own.new_tensor([float(self.stop_asked())])])
        *sums, asked = self._gather(told).reshape(-1, len(told)).sum(dim=0)
        self.stop_agreed = bool(asked > 0)
        return torch.stack(sums)

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        """[n] of each process -> [processes x n]; a collective where there are several."""
        gathered: torch.Tensor = self.accelerator.gather(values) if self.accelerator.num_processes > 1 else values
        return gathered

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Adds losses by source and the share of padding to a step's logs."""
        if "loss" in logs:
            logs |= self.objective.tally.logs(self._gather)
        super().log(logs, *arguments, **options)

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
