"""Fixtures for trees: small templates of real families, an engine that follows a script."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from data.trees.engine import Advance, Completion, Sampling

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% set content = (system if loop.first else '') + m['content'] %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)

Script = Callable[[str, int], tuple[str, str]]


class ScriptedEngine:
    """Writes what a function of prompt text and seed says: (text, finish reason)."""

    def __init__(self, tokenizer: Any, script: Script) -> None:
        self.tokenizer, self.script, self.end_ids = tokenizer, script, ()
        self.prompts: list[str] = []
        self.calls = 0

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[Sequence[int]], advance: Advance | None = None
    ) -> list[list[Completion]]:
        self.calls += 1
        written = []
        for prompt, row in zip(prompts, seeds, strict=True):
            text = self.tokenizer.decode(list(prompt))
            self.prompts += [text] * len(row)
            written.append([self._one(*self.script(text, seed)) for seed in row])
        return written

    def _one(self, text: str, reason: Any) -> Completion:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Completion(token_ids=tuple(ids), logprob=-1.0, finish_reason=reason)


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer with the Terrarium's template."""
    from data.terrarium.tokenizer import train_tokenizer

    return train_tokenizer(["What is two plus five?", "Where does the Murlo live?"], vocabulary_size=300)


@pytest.fixture
def with_template(tokenizer: Any) -> Callable[..., Any]:
    """Gives the tokenizer another template, with that template's special tokens."""

    def make(template: str, specials: Sequence[str] = ()) -> Any:
        tokenizer.chat_template = template
        tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
        return tokenizer

    return make


@pytest.fixture
def scripted(tokenizer: Any) -> Callable[[Script], ScriptedEngine]:
    """Makes an engine that follows a script."""
    return lambda script: ScriptedEngine(tokenizer, script)
