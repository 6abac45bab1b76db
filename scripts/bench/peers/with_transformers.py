"""The comparison's plain run: transformers' own Trainer, with the processor's chat template in the collator."""

from pathlib import Path
from typing import Any

import torch
from meter import measured, setting
from records import conversations, freeze
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments


def main() -> None:
    """Trains."""
    found = setting()
    measured(found)
    model = AutoModelForImageTextToText.from_pretrained(found["model"], dtype=torch.float32)
    freeze(model, found["trains"])
    processor = AutoProcessor.from_pretrained(found["model"])
    arguments = TrainingArguments(
        output_dir=found["output"],
        per_device_train_batch_size=found["batch"],
        num_train_epochs=found["turns"],
        learning_rate=found["rate"],
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
    )

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = processor.apply_chat_template(
            [with_pictures(**one) for one in batch],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )
        answers = torch.as_tensor(made.pop("assistant_masks")).bool()
        return {**made, "labels": made["input_ids"].masked_fill(~answers, -100)}

    Trainer(model, arguments, data_collator=collate, train_dataset=conversations(Path(found["folder"]))).train()


def with_pictures(messages: list[dict[str, str]], images: list[str]) -> list[dict[str, Any]]:
    """Messages with their pictures in front of the first."""
    first, *rest = [{"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in messages]
    return [first | {"content": [*({"type": "image", "path": path} for path in images), *first["content"]]}, *rest]


if __name__ == "__main__":
    main()
