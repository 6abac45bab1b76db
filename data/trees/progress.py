"""A progress bar for a growing tree."""

import time

from data.trees.plan import TreeConfig


class Bar:
    """Turns written of those expected, with nodes/s, tokens/s, yield and the time left; resampled turns are added as they are asked for."""

    def __init__(self, plan: TreeConfig, *, enabled: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=plan.nodes, desc="growing", unit="node", disable=not enabled, dynamic_ncols=True)
        self._total: float = plan.nodes
        self._plan, self._start, self._tokens, self._kept, self._sampled = plan, time.perf_counter(), 0, 0, 0

    def expect(self, turns: int) -> None:
        """More turns (fewer, when negative) than planned will be written."""
        self._total = max(self._bar.n, self._total + turns)
        self._bar.total = self._total

    def advance(self, layer: int, sampled: int, kept: int, tokens: int, *, before: bool = False) -> None:
        """A block is committed; `before`: in an earlier process."""
        if before:
            if not self._bar.disable:
                self._bar.initial += sampled  # the rate, so the time left, is that of this process
                self._bar.n += sampled
            return
        self._tokens += tokens
        self._kept += kept
        self._sampled += sampled
        self._bar.set_description(f"growing layer {layer + 1} of {self._plan.depth}", refresh=False)
        rate = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        share = f"{self._kept / self._sampled:.0%}" if self._sampled else "?"
        self._bar.set_postfix_str(f"{rate:.0f} tokens/s, yield {share}", refresh=False)
        self._bar.update(sampled)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
