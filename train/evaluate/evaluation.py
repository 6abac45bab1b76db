"""Asks a model every question of a suite, then scores what it says."""

import json
import time
from pathlib import Path
from typing import Any

from data.atomic import write_json
from model.processor import tokenizer_of
from train.evaluate.drift import number_token_probability, unrelated_questions
from train.evaluate.generate import Answer, Request, answer
from train.evaluate.score import is_correct, score_answers
from train.evaluate.tasks import GROUPS, Suite, Task

FILE_NAME = "evaluation.json"
SPARE_TOKENS = 8  # room beyond the longest expected answer, so that a talkative answer shows as one


def evaluate(
    model: Any, processor: Any, suite: Suite, *, batch_size: int = 64, progress: bool = True, limit: int | None = None
) -> dict[str, Any]:
    """Evaluates a model on a suite.

    Args:
        model: A transformers model that generates.
        processor: Its processor, or its tokenizer for a suite without pictures.
        suite: From `load_suite`.
        batch_size: Questions in one pass; changes the speed, not the answers.
        progress: Whether to show a bar with the remaining time.
        limit: At most so many questions of each task, the first ones; all when None.

    Returns:
        JSON-ready: `model`, `suite`, `tasks` (name -> group, n, correct, accuracy, strict_accuracy, unparsed, interval, answers),
        `groups` (name -> mean accuracy of its tasks), `number_token_probability` (None when no task is free of numbers), `seconds`.
    """
    start = time.perf_counter()
    suite = suite.limited(limit)
    tokenizer = tokenizer_of(processor)
    requests = {task.name: _requests(task, tokenizer) for task in suite.tasks}
    flat = answer(model, processor, [one for task in suite.tasks for one in requests[task.name]], batch_size=batch_size, progress=progress)
    answers: dict[str, list[Answer]] = {}
    for task in suite.tasks:
        answers[task.name], flat = flat[: len(task.questions)], flat[len(task.questions) :]
    tasks = {task.name: _scored(task, [one.text for one in answers[task.name]]) for task in suite.tasks}
    unrelated = unrelated_questions(suite)
    bias = number_token_probability(
        model,
        processor,
        [requests[name][position].conversation for name, position in unrelated],
        [answers[name][position].token_ids for name, position in unrelated],
        batch_size=batch_size,
    )
    return {
        "model": str(getattr(model, "name_or_path", "")),
        "suite": suite.name,
        "tasks": tasks,
        "groups": group_means(tasks),
        "number_token_probability": bias,
        "seconds": time.perf_counter() - start,
    }


def group_means(tasks: dict[str, Any]) -> dict[str, float]:
    """Mean accuracy of the tasks in each group that has any."""
    means = {}
    for group in GROUPS:
        accuracies = [task["accuracy"] for task in tasks.values() if task["group"] == group]
        if accuracies:
            means[group] = sum(accuracies) / len(accuracies)
    return means


def save(evaluation: dict[str, Any], folder: str | Path) -> Path:
    """Writes `evaluation.json` into `folder`, whole or not at all."""
    return write_json(Path(folder) / FILE_NAME, evaluation, indent=1)


def load(path: str | Path) -> dict[str, Any]:
    """Reads an evaluation from its file or from the folder that holds it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is no evaluation.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no evaluation at {path}; make one with: perennial evaluate CHECKPOINT --suite FILE")
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not valid JSON ({error.msg}); evaluate the checkpoint again") from error
    if not isinstance(evaluation, dict) or not {"tasks", "groups"} <= evaluation.keys():
        raise ValueError(f"{path}: no evaluation (it lacks 'tasks' or 'groups'); evaluate the checkpoint again")
    return evaluation


def _requests(task: Task, tokenizer: Any) -> list[Request]:
    lengths = [len(ids) for ids in tokenizer([question.expected for question in task.questions], add_special_tokens=False)["input_ids"]]
    most = task.max_tokens or max(lengths) + SPARE_TOKENS
    return [
        Request(conversation=question.conversation, max_tokens=most, expected_tokens=length)
        for question, length in zip(task.questions, lengths, strict=True)
    ]


def _scored(task: Task, texts: list[str]) -> dict[str, Any]:
    answers = []
    for question, text in zip(task.questions, texts, strict=True):
        images = question.conversation.images
        answers.append(
            {
                "id": question.conversation.id,
                "image": str(images[0]) if images else None,
                "question": question.text,
                "expected": question.expected,
                "answer": text,
                "correct": is_correct(task.score, text, question.expected),
            }
        )
    scores = score_answers(task.score, texts, [question.expected for question in task.questions])
    return {"group": task.group, **scores, "answers": answers}
