"""Measures chat formatting against the tokenizer alone, both without pictures on dialogues of several rounds.

    make bench NAME=chat_formatting

Formatting is all from turns to ids with spans; the tokenizer alone gets the finished texts, with the same settings. Both take turns in one
process; the least time of each counts. Ids and spans are compared with the chat template's own text first. Two tokenizers: the Terrarium's,
and a byte-level BPE of 32k tokens (of fewer where the repository's own texts hold no more pairs). Results: runs/bench/chat_formatting.json.
"""

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one core, as in each process of an index builder
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

GOAL = 0.8  # of the tokenizer's own speed
VOCABULARY = 32_000
CHUNK = 512  # dialogues of one call
MOST = 100_000
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> int:
    """Prints a table, writes the JSON; exit code 1 when a ratio misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="passes of each kind, at least 5 (default: %(default)s)")
    parser.add_argument("--dialogues", type=int, default=2048, help="dialogues of a pass, at least 64 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/chat_formatting.json"), help="file to write (default: %(default)s)")
    options = parser.parse_args()
    for name, least in (("runs", 5), ("dialogues", 64)):
        if not least <= getattr(options, name) <= MOST:
            parser.error(f"--{name}: got {getattr(options, name)}, expected {least} to {MOST}")
    texts = corpus()
    results = {}
    print(f"{'tokenizer':<12}{'tokens':>10}{'tokenizer tokens/s':>20}{'formatted tokens/s':>20}{'dialogues/s':>13}{'ratio':>8}{'goal':>8}")
    for name, tokenizer in {"terrarium": terrarium(), "bpe": trained(texts)}.items():
        one = measure(tokenizer, dialogues(texts, options.dialogues), options.runs)
        results[name] = one | {"vocabulary": len(tokenizer)}
        speeds = (
            f"{one['tokenizer_tokens_per_second']:>20,.0f}{one['formatted_tokens_per_second']:>20,.0f}{one['dialogues_per_second']:>13,.0f}"
        )
        print(f"{name:<12}{one['tokens']:>10,}{speeds}{one['ratio']:>8.3f}{GOAL:>8.2f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"runs": options.runs, "cores": os.cpu_count(), "load_average": os.getloadavg()[0], "goal": GOAL, "results": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    return int(any(one["ratio"] < GOAL for one in results.values()))


def measure(tokenizer: Any, conversations: Sequence[Any], runs: int) -> dict[str, float]:
    """Least seconds of both ways, A B A B, over the same dialogues; one pass of each before them fills the caches.

    Raises:
        RuntimeError: The two ways give different ids, or loss falls on something else than the answers.
    """
    from data.chat import ChatFormat, Formatter

    def formatted() -> list[Any]:
        formatter = Formatter(ChatFormat(tokenizer=tokenizer))
        made: list[Any] = []
        for first in range(0, len(conversations), CHUNK):
            rendered = [formatter.render(one) for one in conversations[first : first + CHUNK]]
            made += formatter.tokenise(rendered, [()] * len(rendered))
        return made

    def alone() -> list[list[int]]:
        made: list[list[int]] = []
        for first in range(0, len(texts), CHUNK):
            made += tokenizer(
                texts[first : first + CHUNK],
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        return made

    texts = [template_text(one, tokenizer) for one in conversations]
    check(tokenizer, conversations, formatted(), alone())
    seconds: dict[str, list[float]] = {"formatted": [], "alone": []}
    for _ in range(runs):
        seconds["formatted"].append(timed(formatted))
        seconds["alone"].append(timed(alone))
    least = {name: min(found) for name, found in seconds.items()}
    tokens = sum(map(len, alone()))
    return {
        "tokens": tokens,
        "tokenizer_tokens_per_second": tokens / least["alone"],
        "formatted_tokens_per_second": tokens / least["formatted"],
        "dialogues_per_second": len(conversations) / least["formatted"],
        "ratio": least["alone"] / least["formatted"],
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of one pass, its garbage collected before."""
    gc.collect()
    start = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - start
    del made
    return seconds


def check(tokenizer: Any, conversations: Sequence[Any], formatted: Sequence[Any], alone: Sequence[Sequence[int]]) -> None:
    """Ids are those of the template's text; each run that carries loss is one answer with its closer."""
    for conversation, encoded, ids in zip(conversations, formatted, alone, strict=True):
        if encoded.input_ids.tolist() != list(ids):
            raise RuntimeError("formatting gives other ids than the template's text")
        answers = [turn.text for turn in conversation.turns if turn.role == "assistant"]
        learned = [tokenizer.decode(encoded.input_ids[first:last]) for first, last in encoded.spans]
        if [one[: one.rindex("<|")] for one in learned] != answers:
            raise RuntimeError(f"loss falls on {learned}, expected {answers}, each with its closer")


def template_text(conversation: Any, tokenizer: Any) -> str:
    """What the chat template itself writes."""
    messages = [{"role": turn.role, "content": turn.text} for turn in conversation.turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def terrarium() -> Any:
    """The Terrarium's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "data" / "terrarium" / "base")


def trained(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer with ChatML's template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[1], additional_special_tokens=special)
    fast.clean_up_tokenization_spaces = False
    fast.chat_template = CHATML
    return fast


def corpus() -> list[str]:
    """The repository's own texts."""
    patterns = ("*.md", "docs/*.md", "train/**/*.py", "model/**/*.py", "data/**/*.py", "tests/**/*.py")
    return [path.read_text(encoding="utf-8") for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def dialogues(texts: Sequence[str], count: int) -> list[Any]:
    """Dialogues of one to eight rounds; short questions, answers of a few dozen words, some with line ends or markup."""
    from data.conversation import Conversation, Turn

    words = [word for text in texts for word in text.split() if not ("<" in word and ">" in word)]
    draw = random.Random(0)

    def some(least: int, most: int) -> str:
        first = draw.randrange(len(words) - most)
        return " ".join(words[first : first + draw.randint(least, most)])

    made = []
    for number in range(count):
        turns = []
        for _ in range(draw.randint(1, 8)):
            answer = "\n".join(some(10, 40) for _ in range(draw.randint(1, 2)))
            turns += [Turn(role="user", text=some(5, 25)), Turn(role="assistant", text=answer)]
        made.append(Conversation(id=str(number), turns=tuple(turns)))
    return made


if __name__ == "__main__":
    sys.exit(main())
