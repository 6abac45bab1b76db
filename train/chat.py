"""`perennial chat`: ask a model something."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.shares import Share
    from train.evaluate.generate import Decoding

HELD_BACK = 12  # characters of an unfinished word; in scripts without spaces no word ever ends
SCALE, PLAIN = tuple(f"\x1b[30;48;5;{colour}m" for colour in (208, 215, 223, 253, 153, 75, 33)), "\x1b[0m"
"""Black on orange (all from the tuned model) to black on blue (all from the base), which colour-blind people tell apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial chat` takes."""
    parser.add_argument("model", help="model folder, run folder (last checkpoint), name on the hub, or terrarium")
    parser.add_argument("--ask", metavar="TEXT", help="one question; without it, lines are read from the keyboard until an empty one")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="picture of the first question (may be repeated)"
    )
    parser.add_argument("--system", help="text of a system turn")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default: %(default)s)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--sample", action="store_true", help="draw tokens by their probability, in place of always the likeliest")
    ways.add_argument("--beams", type=int, default=1, metavar="N", help="search with N beams; the answer then comes at once")
    parser.add_argument("--temperature", type=float, metavar="T", help="with --sample: above 1 bolder, below 1 more careful (default: 1)")
    parser.add_argument("--top-p", type=float, metavar="P", help="with --sample: the likeliest tokens that reach P together (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="with --sample: draws the tokens (default: 0)")
    parser.add_argument("--shares", action="store_true", help="siamese models: show for each token how much of it came from the base")


def run(arguments: argparse.Namespace) -> int:
    """Answers each question in the dialogue so far, word by word; Ctrl-C cuts an answer short, at the prompt it ends the dialogue."""
    from model.partial import is_siamese
    from model.source import folder_of, is_hub_name
    from train.evaluate.command import find_checkpoint

    if arguments.max_tokens < 1:
        raise ValueError(f"--max-tokens: got {arguments.max_tokens}, expected 1 or more")
    for image in arguments.image:
        if not image.is_file():
            raise FileNotFoundError(f"--image: {image} does not exist")
    decoding = _decoding(arguments)
    folder = folder_of(arguments.model) if is_hub_name(arguments.model) else find_checkpoint(arguments.model)
    if arguments.shares and not is_siamese(folder):
        raise ValueError(
            f"--shares: {folder} holds one model, which gives every token alone; give a siamese checkpoint (a recipe with model.method: "
            "siamese trains one), or leave --shares out"
        )

    import torch

    from model.build import load_pair

    where = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    model, processor = load_pair(folder, dtype=where[1])
    dialogue = Dialogue(model.to(where[0]), processor, arguments.max_tokens, decoding, images=arguments.image, system=arguments.system)
    if arguments.ask:
        _answer(dialogue, arguments.ask, shares=arguments.shares)
        return 0
    for line in _lines():
        try:
            _answer(dialogue, line, shares=arguments.shares)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print(flush=True)
    return 0


class Dialogue:
    """A growing dialogue with a model.

    Args:
        model: Any transformers model that generates.
        processor: Its processor or tokenizer.
        max_tokens: Longest answer in tokens.
        decoding: How tokens are chosen; None: greedily. Its seed counts on from turn to turn.
        images: Pictures of the first question.
        system: Text of a system turn.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        max_tokens: int,
        decoding: "Decoding | None" = None,
        *,
        images: Sequence[Path] = (),
        system: str | None = None,
    ) -> None:
        from data.conversation import Turn
        from data.images import ImageSource
        from train.evaluate.generate import GREEDY

        self._model, self._processor, self._max_tokens, self._decoding = model, processor, max_tokens, decoding or GREEDY
        self._images = tuple(ImageSource(str(image)) for image in images)
        self._turns = [Turn(role="system", text=system)] if system else []
        self._mark = "<image>\n" * len(images)
        self._asked: Any = None
        self._written: tuple[int, ...] = ()

    def ask(self, question: str, show: Callable[[str], None] = lambda piece: None) -> str:
        """The model's answer, which becomes part of the dialogue.

        Args:
            question: What the user says.
            show: Gets the answer piece by piece while it is written; with beams, at once.

        Raises:
            KeyboardInterrupt: The answer was cut short. What was shown of it stays in the dialogue; without that, so does the question not.
        """
        from data.conversation import Conversation, Turn
        from model.processor import tokenizer_of
        from train.evaluate.generate import Request, answer

        turns = [*self._turns, Turn(role="user", text=self._mark + question)]
        asked = Conversation(id="chat", turns=(*turns, Turn(role="assistant", text="")), images=self._images)
        request = Request(conversation=asked, max_tokens=self._max_tokens)
        shown = Shown(tokenizer_of(self._processor), show)
        streamer = shown if self._decoding.beams == 1 else None
        decoding = replace(self._decoding, seed=self._decoding.seed + len(turns), streamer=streamer)
        try:
            found = answer(self._model, self._processor, [request], progress=False, decoding=decoding)[0]
        except KeyboardInterrupt:
            if shown.text:
                self._keep(turns, shown.text)
            raise
        if found.text[len(shown.text) :]:
            show(found.text[len(shown.text) :])
        self._keep(turns, found.text)
        self._asked, self._written = asked, found.token_ids
        return found.text

    def shares(self) -> "tuple[list[str], list[Share]]":
        """The text that each token of the last answer added, who gave it; `model.shares.shares` says what it raises."""
        from data.chat import render_prompts
        from data.pictures import pictures_of
        from model.processor import tokenizer_of
        from model.shares import shares
        from train.evaluate.generate import encode_batch

        tokenizer = tokenizer_of(self._processor)
        prompts = render_prompts([self._asked], tokenizer, mark=pictures_of(self._processor).mark)
        inputs = encode_batch(self._processor, prompts, [self._asked], self._model.device)
        return _pieces(tokenizer, self._written), shares(self._model, inputs, [self._written])[0]

    def _keep(self, turns: list[Any], text: str) -> None:
        from data.conversation import Turn

        self._turns, self._mark = [*turns, Turn(role="assistant", text=text)], ""


class Shown:
    """What has been shown of an answer that is being written (a streamer of `generate`).

    transformers' own TextStreamer forgets all before a line break; tokenizers of the SentencePiece kind then drop the next line's first
    space. Nor does it know that the text is stripped in the end.

    Args:
        tokenizer: Turns ids into text.
        show: Gets each new piece.

    Attributes:
        text: All pieces so far.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        self.text = ""
        self._tokenizer, self._show = tokenizer, show
        self._ids: list[int] | None = None

    def put(self, ids: Any) -> None:
        """Takes the prompt's ids, int64 [1, tokens], then each new token, int64 [1]."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += ids.flatten().tolist()
        text = self._decoded()
        self._show_up_to(text[: max(text.rfind(" "), text.rfind("\n"), len(text) - HELD_BACK, 0)].rstrip())

    def end(self) -> None:
        """Shows the rest."""
        self._show_up_to(self._decoded())

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True)).strip()

    def _show_up_to(self, text: str) -> None:
        if len(text) > len(self.text):
            self._show(text[len(self.text) :])
            self.text = text


def table(pieces: Sequence[str], found: "Sequence[Share]", *, colour: bool) -> str:
    """Who gave each token of an answer, for a terminal.

    Args:
        pieces: The text of each token.
        found: Who gave it.
        colour: Show the answer on the scale from orange (tuned) to blue (base), with a legend, above the table.
    """
    from data.preview_page import visible

    texts = [visible(piece).replace("\n", "↵") for piece in pieces]
    width = max(len("token"), *(len(text) + 2 for text in texts))
    lines = [f"{'token':{width}}  base's share, %  mixed, %  base alone, %  tuned alone, %"]
    for text, one in zip(texts, found, strict=True):
        token = f'"{text}"'.ljust(width)
        numbers = f"{100 * one.base_share:15.1f}  {100 * one.mixed:8.1f}  {100 * one.base:13.1f}  {100 * one.tuned:14.1f}"
        lines.append(f"{_coloured(token, one.base_share) if colour else token}  {numbers}")
    mean = sum(one.base_share for one in found) / len(found)
    lines.append(f"the base's mean share: {mean:.1%}")
    if colour:
        legend = "".join(_coloured(f" {100 * at // (len(SCALE) - 1)} % ", at / (len(SCALE) - 1)) for at in range(len(SCALE)))
        answer = "".join(_coloured(text, one.base_share) for text, one in zip(texts, found, strict=True))
        lines = [answer, f"the base's share: tuned {legend} base", *lines]
    return "\n".join(lines)


def _coloured(text: str, share: float) -> str:
    return f"{SCALE[round(share * (len(SCALE) - 1))]}{text}{PLAIN}"


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; a character of several tokens comes with the last of them."""
    pieces, before = list[str](), ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:end]), clean_up_tokenization_spaces=False)
        whole = not text.endswith("\N{REPLACEMENT CHARACTER}")
        pieces.append(text[len(before) :] if whole else "")
        before = text if whole else before
    return pieces


def _answer(dialogue: Dialogue, question: str, *, shares: bool) -> None:
    dialogue.ask(question, lambda piece: print(piece, end="", flush=True))
    print(flush=True)
    if shares:
        print(table(*dialogue.shares(), colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ), flush=True)


def _decoding(arguments: argparse.Namespace) -> "Decoding":
    from train.evaluate.generate import Decoding

    given = {name: getattr(arguments, name) for name in ("temperature", "top_p", "seed") if getattr(arguments, name) is not None}
    if not arguments.sample:
        if given:
            raise ValueError(f"--{next(iter(given)).replace('_', '-')} has no effect without --sample; add --sample, or leave it out")
        return Decoding(beams=arguments.beams)
    if given.get("temperature") == 0:
        raise ValueError("--temperature: got 0, expected more than 0; for the likeliest tokens leave --sample out")
    return Decoding(**{"temperature": 1.0} | given)


def _lines() -> Iterator[str]:
    """Lines from the keyboard or a pipe, up to an empty one."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            return
        if not line:
            return
        yield line
