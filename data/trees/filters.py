"""Turns that are of no use, each for a named reason."""

from typing import Any, Literal

from data.trees.engine import Completion
from data.trees.openers import Openers, Stop

Reason = Literal["unfinished", "empty", "role_leak", "broken_text"]

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no text


def turn_text(completion: Completion, stop: Stop, tokenizer: Any) -> str:
    """The text of a turn: up to its stop text, without white space around it; special tokens inside are kept, to be seen."""
    text = tokenizer.decode(list(completion.token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    places = [place for place in map(text.find, stop.texts) if place >= 0]
    return str(text[: min(places)] if places else text).strip()


def reason_to_drop(completion: Completion, text: str, openers: Openers) -> Reason | None:
    """Why a turn is not kept; None when it is fine."""
    if completion.finish_reason != "stop":
        return "unfinished"
    if not any(character.isalnum() for character in text):
        return "empty"
    if any(marker in text for marker in openers.markers):
        return "role_leak"
    return "broken_text" if REPLACEMENT in text else None
