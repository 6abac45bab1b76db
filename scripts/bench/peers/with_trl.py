"""The comparison's TRL run: SFTTrainer, its own collator for pictures, its own loss."""

from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as Picture
from meter import measured, setting
from records import conversations, freeze
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

TURN = {"role": Value("string"), "content": Value("string")}


def main() -> None:
    """Trains."""
    found = setting()
    measured(found)
    model = AutoModelForImageTextToText.from_pretrained(found["model"], dtype=torch.float32)
    freeze(model, found["trains"])
    arguments = SFTConfig(
        output_dir=found["output"],
        per_device_train_batch_size=found["batch"],
        num_train_epochs=found["turns"],
        learning_rate=found["rate"],
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        assistant_only_loss=True,
        max_length=None,
        disable_tqdm=True,
    )
    features = Features({"messages": List(TURN), "images": List(Picture())})
    dataset = Dataset.from_list(conversations(Path(found["folder"])), features=features)
    SFTTrainer(model, arguments, train_dataset=dataset, processing_class=AutoProcessor.from_pretrained(found["model"])).train()


if __name__ == "__main__":
    main()
