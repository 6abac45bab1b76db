"""Which tokens are the prompt of each token that carries loss, for a siamese gate."""

from collections.abc import Mapping

import torch

from model.siamese import Prompts


def prompts_of(batch: Mapping[str, torch.Tensor], row: torch.Tensor, token: torch.Tensor) -> Prompts:
    """The prompts of some tokens: all that an answer's first token is predicted from, as it will be when the answer is generated.

    So the prompt of a dialogue's second answer holds the first one; that of a node of a tree, the path to it.

    Args:
        batch: As `data.collate.Collator` makes it, whatever its layout.
        row: int64 [asked tokens]: row of the batch.
        token: int64 [asked tokens]: place there of the token; asked are all tokens of the batch that carry loss.
    """
    ids_BT = batch["input_ids"]
    rows, width = ids_BT.shape
    at_BT = torch.arange(width, device=ids_BT.device).expand(rows, width)
    predictors_BT = batch.get("predictors", (at_BT - 1).clamp(min=0))
    asked_BT = torch.zeros_like(ids_BT, dtype=torch.bool).index_put((row, token), torch.tensor(True, device=ids_BT.device))
    # From a token of an answer to what predicts it, until that belongs to no answer: each step goes twice as far as the one before.
    before_BT = torch.where(asked_BT, predictors_BT, at_BT)
    for _ in range(max(1, width - 1).bit_length()):
        before_BT = before_BT.gather(1, before_BT)
    found, of = torch.unique(row * width + before_BT[row, token], return_inverse=True)
    row_Q, last_Q = found // width, found % width
    at_T, last_Q1 = at_BT[0], last_Q[:, None]
    tokens_QT = at_T <= last_Q1
    if "visible_until" in batch:
        tokens_QT &= batch["visible_until"][row_Q] > last_Q1
    elif "cu_seq_lens_q" in batch:
        tokens_QT &= at_T >= last_Q1 - batch["position_ids"][row_Q, last_Q][:, None]
    return Prompts(row=row_Q, tokens=tokens_QT, of=of)
