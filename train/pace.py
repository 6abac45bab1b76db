"""How fast steps go by."""

import time
from collections import deque

import numpy as np

from train.work import Amounts

WINDOW = 32  # steps


class Pace:
    """Speed over the last steps, by the clock on the wall: what happens between two steps, such as saving, slows it.

    Args:
        amounts: What the steps hold.
        peak: Operations a second of all processes' chips together; None where they are not known.
    """

    def __init__(self, amounts: Amounts, peak: float | None = None) -> None:
        self._tokens, self._images = (_seen(one) for one in (amounts.tokens, amounts.images))
        self._operations = None if amounts.operations is None else _seen(amounts.operations)
        self._peak = peak
        self._marks: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        self._warm = False

    def start(self, step: int) -> None:
        """The clock runs; so many steps are taken."""
        self._marks.clear()
        self._marks.append((step, time.perf_counter()))
        self._warm = False

    def after(self, step: int) -> dict[str, float]:
        """Totals and speeds when a step is done.

        The first step of a process, in which everything is prepared, counts in no later speed.

        Returns:
            `tokens` and `images` since the run began; `tokens_per_second`, `images_per_second`; `mfu`, the share of the chips' peak, where
            that is known.
        """
        self._marks.append((step, time.perf_counter()))
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        if not self._warm:
            self._marks.popleft()
            self._warm = True
        seconds = max(now - before, 1e-9)
        found: dict[str, float] = {
            "tokens": int(self._tokens[last]),
            "images": int(self._images[last]),
            "tokens_per_second": float(self._tokens[last] - self._tokens[first]) / seconds,
            "images_per_second": float(self._images[last] - self._images[first]) / seconds,
        }
        if self._operations is not None and self._peak is not None:
            found["mfu"] = float(self._operations[last] - self._operations[first]) / seconds / self._peak
        return found


def _seen(per_step: np.ndarray) -> np.ndarray:
    """[steps + 1]: the sum of the steps before each, and of all."""
    return np.concatenate([[0], np.cumsum(per_step)])
