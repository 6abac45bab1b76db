"""`perennial chat`: ask a model something."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `perennial chat` takes."""
    parser.add_argument("model", help="model folder, name on the hub, or terrarium")
    parser.add_argument("--ask", metavar="TEXT", help="one question; without it, lines are read from the keyboard until an empty one")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="picture of the first question (may be repeated)"
    )
    parser.add_argument("--system", help="text of a system turn")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Answers greedily; each question is asked in the dialogue so far."""
    from data.terrarium.base import resolve

    if arguments.max_tokens < 1:
        raise ValueError(f"--max-tokens: got {arguments.max_tokens}, expected 1 or more")
    for image in arguments.image:
        if not image.is_file():
            raise FileNotFoundError(f"--image: {image} does not exist")

    import torch

    from model.build import load_pair

    where = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    model, processor = load_pair(resolve(arguments.model), dtype=where[1])
    dialogue = Dialogue(model.to(where[0]), processor, images=arguments.image, system=arguments.system, max_tokens=arguments.max_tokens)
    if arguments.ask:
        print(dialogue.ask(arguments.ask))
        return 0
    for line in _lines():
        print(dialogue.ask(line), flush=True)
    return 0


class Dialogue:
    """A growing dialogue with a model.

    Args:
        model: Any transformers model that generates.
        processor: Its processor or tokenizer.
        images: Pictures of the first question.
        system: Text of a system turn.
        max_tokens: Longest answer in tokens.
    """

    def __init__(self, model: Any, processor: Any, *, images: list[Path], system: str | None, max_tokens: int) -> None:
        from data.conversation import Turn
        from data.images import ImageSource

        self._model, self._processor, self._max_tokens = model, processor, max_tokens
        self._images = tuple(ImageSource(str(image)) for image in images)
        self._turns = [Turn(role="system", text=system)] if system else []
        self._mark = "<image>\n" * len(images)

    def ask(self, question: str) -> str:
        """The model's greedy answer, which becomes part of the dialogue."""
        from data.conversation import Conversation, Turn
        from train.evaluate.generate import Request, answer

        turns = [*self._turns, Turn(role="user", text=self._mark + question)]
        self._mark = ""
        conversation = Conversation(id="chat", turns=(*turns, Turn(role="assistant", text="")), images=self._images)
        request = Request(conversation=conversation, max_tokens=self._max_tokens)
        text = answer(self._model, self._processor, [request], progress=False)[0].text
        self._turns = [*turns, Turn(role="assistant", text=text)]
        return text


def _lines() -> Any:
    """Lines from the keyboard or a pipe, up to an empty one."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line
