"""Fixtures for trees: small templates of real families, an engine that follows a script."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.trees.engine import Completion, Request, Sampling

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

    end_ids = ()

    def __init__(self, script: Script, block_size: int = 4) -> None:
        self.script, self.block_size = script, block_size
        self.prompts: list[str] = []
        self.blocks: list[list[str]] = []

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        for block in blocks:
            self.prompts += [request.prompt for request in block]
            self.blocks.append([request.prompt for request in block])
            yield [self._one(*self.script(request.prompt, request.seed)) for request in block]

    def _one(self, text: str, reason: Any) -> Completion:
        return Completion(text=text, tokens=len(text.split()), logprob=-1.0, finish_reason=reason)


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
def scripted() -> Callable[..., ScriptedEngine]:
    """Makes an engine that follows a script."""
    return ScriptedEngine


@pytest.fixture
def grow_in(tokenizer: Any) -> Callable[..., Any]:
    """Grows a plan with an engine in a folder; gives the tree."""

    def grow_in(plan: Any, engine: Any, folder: Path, **more: Any) -> Any:
        from data.trees.grow import grow
        from data.trees.make import embedder, open_folder, tools_of
        from data.trees.writers import Writer

        writer = Writer(engine=engine, tokenizer=tokenizer, embed=more.get("embed"), identity={}, name="scripted", positions=None)
        tools = tools_of(plan, writer, embedder(plan, writer.embed))
        home = open_folder(plan, writer, tools.openers, folder)
        home.begin(plan.resume)
        try:
            grow(plan, tools, home)
            return home.tree
        finally:
            home.close()

    return grow_in
