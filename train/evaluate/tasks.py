"""What a model is asked: a suite of tasks, each a file of questions with their expected answers."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.conversation import Conversation
from data.readers import read
from train.evaluate.score import PARSERS

Group = Literal["target", "held_out_visual", "held_out_text"]
Score = Literal["exact", "count", "clock", "letter", "word", "yes_no"]

GROUPS: tuple[str, ...] = get_args(Group)


class TaskConfig(BaseModel):
    """One entry of a suite file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="unique in the suite; tables and figures show it")
    group: Group = Field(description="target: a skill to be learned; held_out_visual, held_out_text: what should be kept")
    path: Path = Field(description="LLaVA-format JSON or JSON lines, relative to the suite file")
    score: Score = Field(description="how the value of an answer is read, see train/evaluate/score.py")
    max_tokens: int | None = Field(default=None, ge=1, description="longest answer in tokens; longest expected answer + 8 when absent")


class SuiteConfig(BaseModel):
    """A whole suite file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[TaskConfig, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: a dialogue up to its last assistant turn, whose text is what we expect."""

    conversation: Conversation
    expected: str

    @property
    def text(self) -> str:
        """The last user turn, without its picture mark."""
        return " ".join(self.conversation.turns[-2].text.replace("<image>", " ").split())


@dataclass(frozen=True, kw_only=True)
class Task:
    """Questions of one kind, scored one way."""

    name: str
    group: Group
    score: Score
    questions: tuple[Question, ...]
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are evaluated together; names are unique."""

    name: str
    path: Path
    tasks: tuple[Task, ...]

    def limited(self, n: int | None) -> "Suite":
        """The suite with at most the first `n` questions of each task; the suite itself for None."""
        if n is None:
            return self
        tasks = [
            Task(name=task.name, group=task.group, score=task.score, questions=task.questions[:n], max_tokens=task.max_tokens)
            for task in self.tasks
        ]
        return Suite(name=self.name, path=self.path, tasks=tuple(tasks))


def load_suite(path: str | Path) -> Suite:
    """Reads a suite file with all its questions.

    Args:
        path: A YAML file: `tasks: [{name, group, path, score, max_tokens?}]`.

    Raises:
        FileNotFoundError: The suite, a task's file or a picture is missing.
        ValueError: The suite is malformed, or an expected answer does not hold what its scoring looks for; the message names
            suite, task and record.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"suite {path} does not exist{_nearest_file(path)}; give the path of a suite file (YAML with 'tasks')")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    try:
        config = SuiteConfig.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(path, content, one) for one in error.errors())) from None
    names = [task.name for task in config.tasks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: {names.count(name)} tasks are named {name!r}; give each its own name")
    tasks = tuple(_load_task(path, task) for task in config.tasks)
    return Suite(name=path.stem if path.stem != "suite" else path.resolve().parent.name, path=path, tasks=tasks)


def _load_task(suite: Path, config: TaskConfig) -> Task:
    file = suite.parent / config.path
    if not file.is_file():
        raise FileNotFoundError(f"{suite}: task {config.name!r}: file {file} does not exist{_nearest_file(file)}; correct its 'path'")
    questions = []
    for conversation in read(file):
        roles = [turn.role for turn in conversation.turns]
        if roles[-2:] != ["user", "assistant"]:
            raise ValueError(
                f"{suite}: task {config.name!r}: {conversation.where}: ends with {' then '.join(roles[-2:])}, "
                "expected a human turn, then the gpt turn that holds the expected answer"
            )
        expected = conversation.turns[-1].text
        if PARSERS[config.score](expected) is None:
            raise ValueError(
                f"{suite}: task {config.name!r}: {conversation.where}: the expected answer {expected!r} holds no value for "
                f"score {config.score!r}; correct the record, or choose another score ({', '.join(PARSERS)})"
            )
        for image in conversation.images:
            if image.data is None and not Path(image.path).is_file():
                raise FileNotFoundError(f"{suite}: task {config.name!r}: {conversation.where}: picture {image} does not exist")
        questions.append(Question(conversation=conversation, expected=expected))
    if not questions:
        raise ValueError(f"{suite}: task {config.name!r}: {file} holds no record; a task needs at least one question")
    return Task(name=config.name, group=config.group, score=config.score, questions=tuple(questions), max_tokens=config.max_tokens)


def _explain(path: Path, content: Any, error: Any) -> str:
    """One pydantic error as one line: where, what was got, what is expected, the nearest right name."""
    where, entry = "", content
    for key in error["loc"]:
        entry = entry[key] if isinstance(entry, list | dict) and error["type"] != "missing" and _has(entry, key) else None
        where += f"[{key}]" if isinstance(key, int) else f"{'.' if where else ''}{key}"
    task = _task_name(content, error["loc"])
    start = f"{path}: {where or 'the file'}{f' (task {task!r})' if task else ''}: "
    if error["type"] == "extra_forbidden":
        model = TaskConfig if len(error["loc"]) > 1 else SuiteConfig
        return start + f"unknown key{_nearest(str(error['loc'][-1]), list(model.model_fields))}"
    if error["type"] == "literal_error":
        return start + f"got {entry!r}{_nearest(str(entry), list(GROUPS if error['loc'][-1] == 'group' else PARSERS))}"
    if error["type"] == "missing":
        return start + "missing; every task needs name, group, path, score" if task or len(error["loc"]) > 1 else start + "missing"
    return start + f"{error['msg']}; got {error['input']!r:.80}"


def _has(entry: Any, key: Any) -> bool:
    return key in entry if isinstance(entry, dict) else isinstance(key, int) and key < len(entry)


def _task_name(content: Any, location: tuple[Any, ...]) -> str | None:
    """The name of the task that an error's location lies in."""
    if len(location) < 2 or location[0] != "tasks" or not isinstance(location[1], int):
        return None
    entry = content["tasks"][location[1]]
    return entry.get("name") if isinstance(entry, dict) else None


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"{f'; did you mean {near[0]!r}?' if near else ';'} Known: {', '.join(known)}"


def _nearest_file(path: Path) -> str:
    """A hint at the file nearby whose name is most like that of `path`."""
    names = sorted(file.name for file in path.parent.iterdir() if file.is_file()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""
