"""What can be wrong with a record, by kind."""

from dataclasses import dataclass

KINDS = {
    "broken_json": "the line is not JSON",
    "broken_file": "a file that cannot be read to its end; training starts only with max_bad_share: 1",
    "not_utf8": "bytes that are not UTF-8, or half of a surrogate pair",
    "not_an_object": "the record is not an object",
    "missing_turns": "no list of turns, or no text, where the format has it",
    "empty": "no turns, or no text in any of them",
    "broken_turn": "a turn without speaker or text",
    "unknown_role": "a speaker that the format does not know",
    "not_text": "a turn whose content is not text",
    "unsupported_part": "a part of a message that is neither text nor picture (audio, video, a file)",
    "bad_weight": "a loss weight that is neither 0 nor a number from 1e-9 to 1e9, or weights that do not cover the text",
    "bad_id": "an id that is neither text nor a number",
    "duplicate_id": "an id that an earlier record of the source has",
    "image_in_answer": "a placeholder outside the user's turns",
    "placeholder_mismatch": "more or fewer placeholders than pictures",
    "bad_image_field": "a picture given as something else than a path, bytes, a URL, a data URI",
    "bad_data_uri": "a data URI whose content is not base64",
    "url_not_allowed": "a URL, while data.allow_urls is off",
    "url_failed": "a URL that could not be fetched",
    "missing_image": "no such picture file",
    "empty_image": "a picture of no bytes",
    "broken_image": "bytes that are no picture",
    "truncated_image": "a picture that ends too early",
    "decompression_bomb": "a picture of more pixels than Pillow thinks safe",
    "image_refused": "a picture that the model's processor refuses (too narrow, too small)",
    "image_without_tower": "a picture for a model without a vision tower",
    "reserved_token": "text that holds one of the tokenizer's control tokens",
    "template_refused": "turns that the chat template cannot render",
    "text_rewritten": "text that the chat template changes",
    "nothing_to_learn": "no token that carries loss",
    "over_long": "more tokens than data.max_length",
}
"""Kind of problem -> what it means; `perennial validate` reports these."""

REPAIRS = {
    "starts_with_answer": "answers before the first question, left out",
    "same_speaker_twice": "turns of one speaker in a row, joined",
    "empty_answer": "an empty answer, kept without loss",
    "empty_question": "an empty question, kept",
    "no_last_answer": "a last question without answer, kept",
    "tool_turns": "calls and results of tools, left out",
    "duplicate_id": "an id that an earlier record of the source has, allowed by duplicate_ids",
    "split": "longer than data.max_length: a dialogue split between rounds, a document cut",
    "piece_without_loss": "a piece of a split dialogue or document in which nothing carries loss, left out",
}
"""Oddities that are put right -> what was done; counted, never quarantined."""


class BadRecord(ValueError):
    """A record that cannot be trained on.

    Args:
        kind: A key of `KINDS`.
        message: What is wrong, got, expected, what to do; without the record's place.
    """

    def __init__(self, kind: str, message: str) -> None:
        assert kind in KINDS, kind
        super().__init__(message)
        self.kind = kind
        self.message = message

    def __reduce__(self) -> tuple[type["BadRecord"], tuple[str, str]]:
        return type(self), (self.kind, self.message)  # by itself an error is copied to another process with its message alone


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One bad record.

    Attributes:
        source: The source's path as the recipe gives it.
        record: The record's position in its source, counted from 0.
        kind: A key of `KINDS`.
        message: Place, problem, remedy, in one sentence or two.
    """

    source: str
    record: int
    kind: str
    message: str
