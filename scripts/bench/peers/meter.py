"""Measures a product that trains through transformers' Trainer, turn by turn.

Whoever compares products starts them all, then lets them take turns: one epoch each, while the others wait at the end of a step. So
start-up is paid once, and whatever slows the machine for a while slows all of them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
HANGS_UP = "stop"


class Meter:
    """What one product did since its last turn.

    Args:
        steps: Optimizer steps of a turn.
        to: File descriptor that gets one line of JSON for each turn; the words to go on come from standard input.
    """

    def __init__(self, steps: int, to: int) -> None:
        self._steps = steps
        self._to = os.fdopen(to, "w", buffering=1)
        self._counts = dict.fromkeys(("tokens", "positions", "labelled"), 0)
        self._losses: list[float] = []
        self._libraries = resident("VmRSS")
        self._start = self._core = 0.0

    def install(self) -> None:
        """Lets every Trainer that is made from now on report here."""
        from transformers import Trainer, TrainerCallback, trainer

        meter, inner = self, Trainer.training_step

        class Turns(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                meter.begin(sum(one.numel() for one in model.parameters() if one.requires_grad))

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
                if "loss" in logs:
                    meter.lost(float(logs["loss"]))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.step(state.global_step)

        def counted(trainer: Any, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
            meter.saw(inputs)
            return inner(trainer, model, inputs, *arguments, **options)

        Trainer.training_step = counted
        trainer.DEFAULT_CALLBACKS.append(Turns)

    def begin(self, trainable: int) -> None:
        """The model is loaded, the optimizer may be; the clock runs."""
        self._tell({"trainable": trainable, "libraries": self._libraries})

    def saw(self, inputs: dict[str, Any]) -> None:
        """Counts a batch."""
        real = inputs["attention_mask"] != 0 if "attention_mask" in inputs else inputs["sources"] >= 0
        self._counts["tokens"] += int(real.sum())
        self._counts["positions"] += inputs["input_ids"].numel()
        self._counts["labelled"] += int((inputs["labels"] != -100).sum())

    def lost(self, loss: float) -> None:
        """Keeps a step's loss."""
        self._losses.append(loss)

    def step(self, number: int) -> None:
        """Ends a turn with its last step."""
        if number % self._steps == 0:
            times = {"seconds": time.perf_counter() - self._start, "core": time.process_time() - self._core}
            self._tell(times | self._counts | {"losses": self._losses, "peak": resident("VmHWM")})

    def _tell(self, line: dict[str, Any]) -> None:
        """Says how a turn went, waits for the next; ends the process where there is none."""
        self._to.write(json.dumps(line) + "\n")
        if sys.stdin.readline().strip() in ("", HANGS_UP):
            os._exit(0)  # what a product does behind its last step is not of interest
        self._losses, self._counts = [], dict.fromkeys(self._counts, 0)
        self._start, self._core = time.perf_counter(), time.process_time()


def resident(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most so far."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def setting() -> dict[str, Any]:
    """What to train, from the command line: `folder`, `batch`, `steps` of a turn, `turns`, `rate`, `trains`, `output`, `row`."""
    return json.loads(sys.argv[1])


def measured(found: dict[str, Any]) -> None:
    """Installs a meter; call it once a product's libraries are imported."""
    Meter(found["steps"], found["to"]).install()
