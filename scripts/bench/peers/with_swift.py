"""The comparison's ms-swift run: its command's own entry, with a chat template of its own kind that writes what ours writes."""

import json
from pathlib import Path

from meter import measured, setting
from records import TRAINS, conversations
from swift import sft_main
from swift.template import TemplateMeta, register_template
from swift.template.templates.llava import LlavaHfTemplate

TEMPLATE = "same_chat"


def main() -> None:
    """Trains."""
    found = setting()
    measured(found)
    register_template(
        TemplateMeta(
            TEMPLATE,
            prefix=[],
            prompt=["<|im_start|>user\n{{QUERY}}<|im_end|><|im_start|>assistant\n"],
            chat_sep=["<|im_end|>"],
            suffix=["<|im_end|>"],
            template_cls=LlavaHfTemplate,
        )
    )
    options = {
        "model": found["model"],
        "model_type": "llava1_5_hf",
        "template": TEMPLATE,
        "dataset": str(written(Path(found["folder"]), Path(found["output"]))),
        "load_from_cache_file": "false",
        "split_dataset_ratio": "0",
        "tuner_type": "full",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "per_device_train_batch_size": found["batch"],
        "gradient_accumulation_steps": 1,
        "num_train_epochs": found["turns"],
        "learning_rate": found["rate"],
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "gradient_checkpointing": "false",
        "dataloader_num_workers": 0,
        "dataset_num_proc": 1,
        "output_dir": found["output"],
        "use_cpu": "true",
        "freeze_parameters_ratio": 1,
        "trainable_parameters_regex": TRAINS[found["trains"]],
    }
    sft_main([str(word) for name, value in options.items() for word in (f"--{name}", value)])


def written(folder: Path, output: Path) -> Path:
    """The records as ms-swift reads them; its template writes the line break behind a picture itself."""
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for record in conversations(folder):
        if record["images"]:
            record["messages"][0]["content"] = "<image>" + record["messages"][0]["content"].removeprefix("\n")
        lines.append(json.dumps(record))
    (output / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return output / "records.jsonl"


if __name__ == "__main__":
    main()
