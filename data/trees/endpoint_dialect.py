"""How one server with the raw completions API is spoken to."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from data.trees.engine import Completion, FinishReason, Request, Sampling

COMMON_LETTERS = tuple(" etaoinsrh0123456789")  # as stop strings they end any text within a token or two
ADDRESS = re.compile(r"(?P<scheme>https?://)((?P<user>[^/?#@:]*)(:(?P<password>[^/?#]*))?@)?(?P<place>[^@]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a server was found to understand.

    Attributes:
        model: The name that requests give.
        takes_ids: Whether prompts go as token ids (vLLM, SGLang), not as text (`transformers serve`).
        adds_bos: Whether a text prompt goes without its first token, since the server writes that itself.
        takes_stops: Whether stop strings are honoured.
        frozen: Whether the server keeps the temperature of the first request that it ever had (`transformers serve --continuous-batching`).
    """

    model: str
    takes_ids: bool
    adds_bos: bool = False
    takes_stops: bool = True
    frozen: bool = False


def split_address(url: str) -> tuple[str, tuple[str, str] | None]:
    """What may be shown of an address, then user and password where it holds them.

    Raises:
        ValueError: It is no address; the message has nothing that may be part of a password.
    """
    found = ADDRESS.fullmatch(url.rstrip("/"))
    if found is None:
        raise ValueError(
            f"tree.engine.url: got ...{url.rpartition('@')[2]}, expected http://HOST:PORT/v1 or http://USER:PASSWORD@HOST:PORT/v1 "
            "(https as well), with /, ?, #, @ in a password written as %2F, %3F, %23, %40"
        )
    login = None if found["user"] is None else (unquote(found["user"]), unquote(found["password"] or ""))
    return found["scheme"] + found["place"], login


def body(request: Request, sampling: Sampling, dialect: Dialect, bos: str | None) -> dict[str, Any]:
    """Arguments of a completions call for one turn.

    Every sampling setting is named, since servers fill gaps from the checkpoint's generation config.
    """
    shared: dict[str, Any] = {
        "model": dialect.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "frequency_penalty": 0.0,
    }
    if sampling.stop_texts and dialect.takes_stops:
        shared["stop"] = list(sampling.stop_texts)
    if dialect.takes_ids:
        extra = {
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(sampling.stop_ids),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "include_stop_str_in_output": False,
        }
        prompt = list(request.ids)
        return shared | {"prompt": prompt, "max_tokens": sampling.max_tokens, "logprobs": 0, "presence_penalty": 0.0, "extra_body": extra}
    settings = {
        "do_sample": sampling.temperature > 0,
        "temperature": sampling.temperature or 1.0,
        "top_p": sampling.top_p,
        "top_k": 0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "eos_token_id": list(sampling.stop_ids) or None,
    }
    text = request.prompt.removeprefix(bos) if dialect.adds_bos and bos else request.prompt
    # One token more: at the limit itself `transformers serve` says "length" even where the last token was the end.
    return shared | {"prompt": text, "max_tokens": sampling.max_tokens + 1, "extra_body": {"generation_config": json.dumps(settings)}}


def read(reply: Any, sampling: Sampling, dialect: Dialect, tokenizer: Any) -> Completion:
    """Makes a server's answer a completion."""
    choice, used = reply.choices[0], reply.usage.completion_tokens
    further = choice.model_extra or {}
    places = [place for place in map(choice.text.find, sampling.stop_texts) if place >= 0]
    text = choice.text[: min(places)] if places else choice.text
    by_text = bool(places) or isinstance(further.get("stop_reason", further.get("matched_stop")), str)
    by_token = not by_text and (choice.finish_reason == "stop" if dialect.takes_ids else used <= sampling.max_tokens)
    finish: FinishReason = "stop" if by_text or by_token else "length"
    if by_text:
        tokens = len(_ids(text, tokenizer))
    elif by_token:
        tokens = used - 1
        if not dialect.takes_ids:
            text = _without_end(text, sampling, tokenizer)
    else:
        tokens = min(used, sampling.max_tokens)
        if not dialect.takes_ids:  # asked for one token more: see `body`
            text = tokenizer.decode(_ids(text, tokenizer)[: sampling.max_tokens])
    return Completion(text=text, tokens=tokens, logprob=_logprob(choice, sampling), finish_reason=finish)


def ignores_stops(text: str, tokenizer: Any) -> bool:
    """Whether a text that should have ended at the first of `COMMON_LETTERS` went on."""
    head = tokenizer.decode(_ids(text, tokenizer)[:-3])  # generous: tokenising anew may cut the last token differently
    return any(letter in head for letter in COMMON_LETTERS)


def _without_end(text: str, sampling: Sampling, tokenizer: Any) -> str:
    """The text without a stop token at its end: `transformers serve` leaves out special tokens only."""
    ends = [end for end in (tokenizer.decode([token]) for token in sampling.stop_ids) if end and text.endswith(end)]
    return text.removesuffix(max(ends, key=len)) if ends else text


def _logprob(choice: Any, sampling: Sampling) -> float | None:
    values = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    # SGLang, the one that tells of a `matched_stop`, gives them at the sampling temperature, vLLM at 1.
    if not values or ("matched_stop" in (choice.model_extra or {}) and sampling.temperature not in (0.0, 1.0)):
        return None
    return float(sum(value for value in values if value is not None))


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
