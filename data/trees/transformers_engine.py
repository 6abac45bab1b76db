"""The engine that runs a transformers model in this process."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor

from data.trees.engine import Completion, Request, Sampling

EMBEDDING_BATCH = 256
STRETCH = 8  # tokens between two looks at which rows have ended


class TransformersEngine:
    """Batched generation with a KV cache; prompts that occur several times in a batch are read once.

    Each turn draws from its own seed, so a repeated block repeats its turns. The checkpoint's own sampling settings (temperature,
    penalties) take no part.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 128) -> None:
        """Wraps a causal language model, or the text side of a LLaVA-style one.

        Args:
            model: Any transformers model with `generate`; it stays where it is, on its device, in its dtype.
            tokenizer: Its tokenizer; gives the padding token.
            batch_size: Turns written at once.
        """
        self.model, self.tokenizer, self.block_size = model, tokenizer, batch_size
        ends = model.generation_config.eos_token_id
        self.end_ids = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self.pad_id = next(one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if one is not None)

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.complete`; a block is a batch."""
        for block in blocks:
            yield self._batch([request.ids for request in block], [request.seed for request in block], sampling)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Mean of the last hidden states over each text's tokens, at unit length: float32 [texts, hidden]."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vectors = np.zeros((len(texts), self.model.config.get_text_config().hidden_size), np.float32)
        with self._generating():
            for first in range(0, len(order), EMBEDDING_BATCH):
                rows = order[first : first + EMBEDDING_BATCH]
                input_ids, mask = self._pad([ids[row] for row in rows])
                states = self.model.base_model(input_ids=input_ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False)
                weights = mask.unsqueeze(-1).to(torch.float32)
                mean = (states.last_hidden_state.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
                vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors

    def _batch(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """Writes in stretches; rows that have ended leave the batch, so that a few long turns cost little."""
        draw = Draw(seeds, sampling, None if self.pad_id in sampling.stop_ids else self.pad_id, self.model.device)
        written: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        with self._generating():
            rows, (ids, mask), cache = list(range(len(prompts))), self._pad(prompts), self._shared_prefix(prompts)
            while rows:
                length = min(STRETCH, sampling.max_tokens - len(written[rows[0]]))
                output = self._stretch(ids, mask, cache, sampling, length, draw)
                new = output.sequences[:, ids.shape[1] :]
                for row, tokens, scores in zip(rows, new.tolist(), draw.take(new.shape[1]), strict=True):
                    written[row] += tokens
                    logprobs[row] += scores
                left = [place for place, row in enumerate(rows) if self._goes_on(written[row], sampling)]
                rows = [rows[place] for place in left]
                if rows:
                    chosen = torch.tensor(left, device=ids.device)
                    ids, mask = output.sequences[chosen], torch.nn.functional.pad(mask[chosen], (0, new.shape[1]), value=1)
                    cache = output.past_key_values
                    self._select(cache, chosen)
                    draw.keep(chosen)
        return [self._completion(row, scores, sampling) for row, scores in zip(written, logprobs, strict=True)]

    def _stretch(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any | None, sampling: Sampling, length: int, draw: "Draw") -> Any:
        """Up to `length` further tokens of each row; the cache holds what has been read of `ids` so far."""
        self._forget_positions()
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if cache is not None:
            inputs["past_key_values"] = cache
        if sampling.stop_texts:
            inputs["tokenizer"] = self.tokenizer
        settings = GenerationConfig(
            max_new_tokens=length,
            do_sample=False,  # `Draw` has chosen already
            use_cache=True,
            return_dict_in_generate=True,
            pad_token_id=self.pad_id,
            eos_token_id=list(sampling.stop_ids),
            stop_strings=list(sampling.stop_texts) or None,
        )
        return self.model.generate(**inputs, generation_config=settings, logits_processor=[draw])

    def _forget_positions(self) -> None:
        """Qwen's vision models keep what separates positions from tokens in the last call's rows; these are other rows."""
        if hasattr(self.model.base_model, "rope_deltas"):
            self.model.base_model.rope_deltas = None

    def _select(self, cache: Any, rows: torch.Tensor) -> None:
        try:
            cache.batch_select_indices(rows)
        except AttributeError as error:
            raise ValueError(
                f"{type(self.model).__name__} keeps states that cannot be dealt out row by row ({error}); "
                "let a server or vLLM write: tree.engine.kind endpoint or vllm"
            ) from error

    def _goes_on(self, row: list[int], sampling: Sampling) -> bool:
        return len(row) < sampling.max_tokens and self._end(row, sampling) == (len(row), False, False)

    def _end(self, row: list[int], sampling: Sampling) -> tuple[int, bool, bool]:
        """Length of a turn, whether a token ended it, whether a text did."""
        ends = {*sampling.stop_ids, self.pad_id}  # `Draw` never chooses the padding token: where it stands the row had ended
        length = next((position for position, token in enumerate(row) if token in ends), len(row))
        by_token = length < len(row) and row[length] in sampling.stop_ids
        by_text = bool(sampling.stop_texts) and _found(self._text(row[:length]), sampling.stop_texts) is not None
        return length, by_token, by_text

    def _completion(self, row: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
        length, by_token, by_text = self._end(row, sampling)
        text = self._text(row[:length])
        return Completion(
            text=text[: _found(text, sampling.stop_texts)],
            tokens=length,
            logprob=sum(logprobs[: length + (by_token and not by_text)]),
            finish_reason="stop" if by_token or by_text else "length",
        )

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> Any | None:
        """A cache of all but the last token of each prompt, where reading each different prompt once saves work."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        if len(places) == len(prompts) or min(map(len, places)) < 2:
            return None
        input_ids, mask = self._pad(list(places))
        input_ids, mask = input_ids[:, :-1], mask[:, :-1]
        self._forget_positions()
        # logits_to_keep: nobody reads the logits of a prefix, and [prompts, tokens, vocabulary] can be large.
        read = self.model(input_ids=input_ids, attention_mask=mask, position_ids=_positions(mask), use_cache=True, logits_to_keep=1)
        cache = read.past_key_values
        self._select(cache, torch.tensor([places[tuple(prompt)] for prompt in prompts], device=input_ids.device))
        return cache

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded ids and their mask, both int64 [rows, longest]."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad_id] * (width - len(row)) + list(row) for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        return ids, mask

    @contextmanager
    def _generating(self) -> Iterator[None]:
        """Evaluation mode, no gradients, none of the checkpoint's own generation settings; all put back afterwards."""
        model, training, settings = self.model, self.model.training, self.model.generation_config
        model.generation_config = GenerationConfig(pad_token_id=self.pad_id)
        model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            model.generation_config = settings
            model.train(training)


class Draw(LogitsProcessor):
    """Chooses each row's next token from the row's own random numbers, leaving it the only one possible.

    `generate` draws from the global generator, for the whole batch at once; this way a turn depends on its own seed alone.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, forbidden: int | None, device: Any) -> None:
        """Draws the uniform numbers of every row beforehand: float32 [rows, max_tokens + 1]."""
        self.sampling, self.forbidden = sampling, forbidden
        self._written, self._logprobs = 0, list[torch.Tensor]()
        # One more than tokens: on a GPU `generate` may look one step beyond the last.
        uniform = [np.random.default_rng(seed).random(sampling.max_tokens + 1, np.float32) for seed in seeds]
        self._uniform = torch.from_numpy(np.stack(uniform)).to(device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes scores [rows, vocabulary]; gives 0 for the chosen token, -inf for all others."""
        scores = scores.float()
        if self.forbidden is not None:
            scores[:, self.forbidden] = -torch.inf
        chosen = self._sample(scores) if self.sampling.temperature > 0 else scores.argmax(-1, keepdim=True)
        self._logprobs.append(scores.log_softmax(-1).gather(1, chosen))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def take(self, tokens: int) -> list[list[float]]:
        """Log-probabilities of the tokens written since the last call, row by row."""
        taken = torch.cat(self._logprobs, dim=1)[:, :tokens].tolist()
        self._written, self._logprobs = self._written + tokens, []
        return taken

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows only."""
        self._uniform = self._uniform[rows]

    def _sample(self, scores: torch.Tensor) -> torch.Tensor:
        """Inverse of the cumulative distribution at the row's number; with top-p over the likeliest tokens only."""
        step = min(self._written + len(self._logprobs), self.sampling.max_tokens)
        uniform, probabilities = self._uniform[:, step : step + 1], (scores / self.sampling.temperature).softmax(-1)
        if self.sampling.top_p == 1.0:
            return _invert(probabilities, uniform)
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        return order.gather(1, _invert(probabilities * (before < self.sampling.top_p), uniform))


def _found(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the strings stands in a text."""
    return min((place for place in map(text.find, stops) if place >= 0), default=None)


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """For each row the place where the running sum of `weights` [rows, places] passes `uniform` [rows, 1] times their total."""
    cumulative = weights.cumsum(-1)
    place = (cumulative <= uniform * cumulative[:, -1:]).sum(-1, keepdim=True)
    # Rounding may push the number to the total itself: then the last place with any weight is meant.
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(place, last)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)
