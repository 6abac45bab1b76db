"""What a step minimises: the terms of a recipe's `train.losses` over the tokens that carry loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from train.config import LossConfig
from train.distill import Teacher
from train.head import LossHead, Weights, chunked
from train.losses import Rows, counts, scope, term_sum, token_losses
from train.tally import Tally


class Objective:
    """The terms with their teachers, and what they came to since the last log.

    Args:
        terms: What is minimised.
        teachers: From `train.distill.teachers`.
        head: Installed in the model while it trains.
        sources: Names of the data's sources.
    """

    def __init__(self, terms: Sequence[LossConfig], teachers: Mapping[str | None, Teacher], head: LossHead, sources: Sequence[str]) -> None:
        self.terms, self.teachers, self.head = tuple(terms), dict(teachers), head
        self.needs_prompts = head.siamese is not None or any(teacher.needs_prompts for teacher in self.teachers.values())
        self.tally = Tally([term.kind for term in terms], sources)

    def counts(self, rows: Rows) -> torch.Tensor:
        """What some rows add to each term's count, float64 [terms]."""
        return counts(self.terms, rows)

    def shares(self, counts: torch.Tensor) -> torch.Tensor:
        """What a row of weight 1 has of the loss in each term, float32 [terms], by the counts over all processes; 0 where none counts."""
        weights = counts.new_tensor([term.weight for term in self.terms])
        return torch.where(counts > 0, weights / counts.clamp(min=torch.finfo(torch.float64).tiny), 0).float()

    def loss(self, model: Any, rows: Rows, inputs: dict[str, Any], blank: dict[str, Any], shares: torch.Tensor) -> torch.Tensor:
        """A micro batch's part of the loss, float32 [].

        Args:
            model: The engine.
            rows: Its tokens that carry loss.
            inputs: What the model's forward pass takes.
            blank: What a batch without pictures takes besides.
            shares: From `shares`.
        """
        taught = self._taught(model, rows, inputs, blank)

        def of_all(hidden_ND: torch.Tensor, own: Weights) -> torch.Tensor:
            heads = {name: self.teachers[name].head(own) for name in taught}

            def of_chunk(logits_NV: torch.Tensor, span: slice) -> torch.Tensor:
                with torch.no_grad():
                    teachers = {name: heads[name].logits(hidden[span]) for name, hidden in taught.items()}
                part = rows.part(span)
                losses_N = token_losses(logits_NV, part.labels)
                sums = torch.stack(
                    [
                        logits_NV.new_zeros(())
                        if term.is_distilled and term.teacher not in taught
                        else term_sum(term, part, logits_NV, losses_N, teachers.get(term.teacher))
                        for term in self.terms
                    ]
                )
                self.tally.lost(part, losses_N.detach(), sums.detach(), self.counts(part))
                return (sums * shares).sum()

            return chunked(hidden_ND, own, of_chunk)

        with self.head.asked(rows, of_all):
            found: torch.Tensor = model(**inputs, **blank).logits
        return found

    def _taught(self, model: Any, rows: Rows, inputs: dict[str, Any], blank: dict[str, Any]) -> dict[str | None, torch.Tensor]:
        """Hidden states of each teacher that a row needs, or that every process must ask."""
        found: dict[str | None, torch.Tensor] = {}
        for name, teacher in self.teachers.items():
            needed = any(bool(scope(term, rows).any()) for term in self.terms if term.is_distilled and term.teacher == name)
            if needed or teacher.everywhere:
                found[name] = teacher.hidden(model, inputs | blank if teacher.takes_blanks else inputs, rows)
        return found
