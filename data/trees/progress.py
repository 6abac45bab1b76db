"""A progress bar for a growing tree."""

import time

from data.trees.plan import TreeConfig


class Bar:
    """Turns written of those expected, with nodes/s, tokens/s, yield and the time left; resampled turns are added as they are asked for."""

    def __init__(self, plan: TreeConfig, layers_done: int, *, enabled: bool) -> None:
        from tqdm import tqdm

        done = sum(plan.layer_sizes[:layers_done])
        self._bar = tqdm(total=plan.nodes, initial=done, desc="growing", unit="node", disable=not enabled, dynamic_ncols=True)
        self._total: float = plan.nodes
        self._plan, self._start, self._tokens, self._kept, self._sampled = plan, time.perf_counter(), 0, 0, 0

    def expect(self, turns: int) -> None:
        """More turns (fewer, when negative) than planned will be written."""
        self._total = max(self._bar.n, self._total + turns)
        self._bar.total = self._total

    def advance(self, turns: int, tokens: int) -> None:
        """Turns have been written."""
        self._tokens += tokens
        self._bar.update(turns)
        self._show()

    def judged(self, layer: int, kept: int, sampled: int) -> None:
        """A round of a layer is over."""
        self._kept += kept
        self._sampled += sampled
        self._bar.set_description(f"growing layer {layer + 1} of {self._plan.depth}")
        self._show()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def _show(self) -> None:
        rate = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        share = f"{self._kept / self._sampled:.0%}" if self._sampled else "?"
        self._bar.set_postfix_str(f"{rate:.0f} tokens/s, yield {share}", refresh=False)
