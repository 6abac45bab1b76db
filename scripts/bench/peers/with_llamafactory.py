"""The comparison's LLaMA-Factory run: its command's own entry, with a chat template of its own kind that writes what ours writes."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# LLaMA-Factory imports torchaudio, whose newest build refuses the torch that all products here run on; nothing here makes a sound.
sys.modules["torchaudio"] = ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

from llamafactory.data.formatter import StringFormatter  # noqa: E402
from llamafactory.data.mm_plugin import get_mm_plugin  # noqa: E402
from llamafactory.data.template import register_template  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from meter import measured, setting  # noqa: E402

TEMPLATE = "same_chat"
WHAT: dict[str, dict[str, Any]] = {
    "llm+projector": {"finetuning_type": "full", "freeze_vision_tower": True, "freeze_multi_modal_projector": False},
    "sa_proj": {"finetuning_type": "freeze", "freeze_trainable_modules": "self_attn", "freeze_multi_modal_projector": True},
}


def main() -> None:
    """Trains."""
    found = setting()
    measured(found)
    register_template(
        name=TEMPLATE,
        format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|><|im_start|>assistant\n"]),
        format_assistant=StringFormatter(slots=["{{content}}<|im_end|>"]),
        mm_plugin=get_mm_plugin(name="llava", image_token="<image>"),
    )
    layers = json.loads((Path(found["model"]) / "config.json").read_text(encoding="utf-8"))["text_config"]["num_hidden_layers"]
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": found["model"],
            "template": TEMPLATE,
            "dataset_dir": str(describe(Path(found["folder"]), Path(found["output"]))),
            "dataset": "records",
            "cutoff_len": 1024,
            "output_dir": found["output"],
            "per_device_train_batch_size": found["batch"],
            "gradient_accumulation_steps": 1,
            "num_train_epochs": found["turns"],
            "learning_rate": found["rate"],
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "disable_gradient_checkpointing": True,
            "infer_dtype": "float32",
            "flash_attn": "sdpa",
            "freeze_trainable_layers": layers,
            **WHAT[found["trains"]],
        }
    )


def describe(folder: Path, output: Path) -> Path:
    """Writes the records with whole paths, beside the file that says what they look like; gives their folder."""
    output.mkdir(parents=True, exist_ok=True)
    records = json.loads((folder / "llava.json").read_text(encoding="utf-8"))
    plain = [{"conversations": one["conversations"], "images": [str(folder / one["image"])] if "image" in one else []} for one in records]
    (output / "records.json").write_text(json.dumps(plain), encoding="utf-8")
    columns = {"messages": "conversations", "images": "images"}
    about = {"records": {"file_name": "records.json", "formatting": "sharegpt", "columns": columns}}
    (output / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
    return output


if __name__ == "__main__":
    main()
