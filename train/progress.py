"""How far a run is, for the person who waits."""

import sys
import time
from typing import Any

from transformers import TrainerCallback

EVERY = 30.0  # seconds between two lines where there is no terminal


class Progress(TrainerCallback):
    """A bar with loss, speeds, time left; where the output is no terminal, such as a cluster's log, a line every half minute.

    Args:
        name: What is trained.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None
        self._began = 0.0
        self._first = 0
        self._told = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts once the step is known from which the run goes on."""
        if self._began:
            return
        self._began, self._first = time.monotonic(), state.global_step
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=self._first, desc=self._name, unit="step", mininterval=0.5, dynamic_ncols=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        step, now = state.global_step, time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(described(logs)), refresh=False)
            self._bar.update(step - self._bar.n)
        elif step in (self._first + 1, state.max_steps) or now - self._told >= EVERY:
            self._told = now
            left = (now - self._began) / max(step - self._first, 1) * (state.max_steps - step)
            words = [f"{self._name} {step}/{state.max_steps}", *described(logs), f"{clock(left)} left"]
            print(", ".join(words), file=sys.stderr, flush=True)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def described(logs: dict[str, float]) -> list[str]:
    """A step's logs in a few words each: loss, real tokens and pictures a second, share of padding, of the chip's peak."""
    words = [f"loss {logs['loss']:.3f}"]
    words += [f"{logs[f'{name}_per_second']:,.{digits}f} {name}/s" for name, digits in (("tokens", 0), ("images", 1)) if _some(logs, name)]
    words += [f"{logs['padding_share']:.0%} padding"] if "padding_share" in logs else []
    words += [f"{logs['mfu']:.1%} MFU"] if "mfu" in logs else []
    return words


def _some(logs: dict[str, float], name: str) -> bool:
    """Whether the run has seen any of these: none are told of in a run without pictures."""
    return f"{name}_per_second" in logs and logs.get(name, 0) > 0


def clock(seconds: float) -> str:
    """Hours, minutes, seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
