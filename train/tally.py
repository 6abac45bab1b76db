"""What the batches of a step held, and lost, over all processes."""

from collections.abc import Callable, Mapping, Sequence

import torch

from train.losses import Rows

Gather = Callable[[torch.Tensor], torch.Tensor]
"""[n] of each process -> [processes x n]."""


class Tally:
    """Sums since the last log, on the device, so that a step waits for none of them.

    Args:
        terms: Kinds of the terms of the loss.
        sources: Names of the data's sources.
    """

    def __init__(self, terms: Sequence[str], sources: Sequence[str]) -> None:
        self._terms, self._sources = tuple(terms), tuple(sources)
        self._sums: dict[str, torch.Tensor] = {}

    def saw(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Counts a batch's positions, and those of them that hold a token."""
        sources_BT = batch["sources"]
        self._add("positions", torch.stack([torch.tensor(sources_BT.numel(), device=sources_BT.device), (sources_BT >= 0).sum()]))

    def lost(self, rows: Rows, losses_N: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Adds what some rows lost.

        Args:
            rows: The rows.
            losses_N: Their negative log-likelihoods in nats.
            sums: Of each term over the rows.
            counts: Of each term over the rows.
        """
        empty = torch.zeros(len(self._sources), dtype=torch.float64, device=losses_N.device)
        of_source = empty.index_add(0, rows.sources, (losses_N * rows.weights).double())
        weight = empty.index_add(0, rows.sources, rows.weights.double())
        self._add("sources", torch.stack([of_source, weight]))
        self._add("terms", torch.stack([sums.double(), counts.double()]))

    def logs(self, gather: Gather) -> dict[str, float]:
        """Means over all processes; begins anew.

        `loss/SOURCE` of each source that was seen, in nats a token; `term/KIND` of each term, where there are several; `padding_share`.
        """
        names = list(self._sums)
        parts = [self._sums[name].reshape(-1) for name in names]
        whole = gather(torch.cat(parts))
        summed = whole.reshape(-1, sum(map(len, parts))).sum(dim=0).tolist()
        found, at = {}, 0
        for name, part in zip(names, parts, strict=True):
            found[name] = (summed[at : at + len(part) // 2], summed[at + len(part) // 2 : at + len(part)])
            at += len(part)
        self._sums = {}
        positions, tokens = (one[0] for one in found["positions"])
        logs = {"padding_share": 1 - tokens / positions}
        logs |= {f"loss/{name}": total / weight for name, total, weight in zip(self._sources, *found["sources"], strict=True) if weight}
        if len(self._terms) > 1:
            logs |= {f"term/{name}": total / count for name, total, count in zip(self._terms, *found["terms"], strict=True) if count}
        return logs

    def _add(self, name: str, values: torch.Tensor) -> None:
        values = values.double()
        self._sums[name] = self._sums[name] + values if name in self._sums else values


def names_of(paths: Sequence[str]) -> list[str]:
    """A short name for each source: the last word of its path, with its number where two are alike."""
    short = [path.rstrip("/").rpartition("/")[2].partition(".")[0] or path for path in paths]
    return [name if short.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(short)]
