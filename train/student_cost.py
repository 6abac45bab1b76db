"""What distilling a siamese model costs: the distilled model beside it, beside the two that it is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluate.comparison import HELD_OUT, check, percent, points
from train.evaluate.paired import change, mean
from train.evaluate.score import normalise

BASE, SIAMESE, TWIN, DISTILLED = "base", "siamese", "twin", "distilled"
LABELS = {BASE: "base alone", SIAMESE: "siamese", TWIN: "twin alone", DISTILLED: "distilled"}
TARGET = "target"
GROUPS = (TARGET, *HELD_OUT)


def cost(evaluations: Mapping[str, dict[str, Any]], target: str | None = None) -> dict[str, Any]:
    """All numbers: shares lie in 0..1, changes are model - siamese.

    Args:
        evaluations: Of `LABELS`' models, on one suite.
        target: Task that was tuned for; None: the mean over all target tasks.

    Returns:
        JSON-ready: `suite`, `target_task`, `models` (each `name`, `groups`, `same_answers`, `questions`; a group, as far as it was asked,
        has `accuracy`, `n`, `same_answers`, and but for the siamese model `change`, `interval`), `sentence`. `same_answers` is the share of
        the groups' questions to which a model's answer is the siamese one's, up to case, spacing and punctuation at the end.

    Raises:
        ValueError: The models did not answer the same questions, or there is no such task.
    """
    siamese = evaluations[SIAMESE]
    others = [{"name": LABELS[name], "target_task": target, "evaluation": one} for name, one in evaluations.items()]
    check(others, siamese)
    found = {
        "suite": siamese.get("suite"),
        "target_task": target,
        "models": [{"name": name, **_beside(evaluations[name], siamese, target)} for name in LABELS],
    }
    for part in _model(found, SIAMESE)["groups"].values():
        del part["change"], part["interval"]  # that of a model from itself says nothing
    return found | {"sentence": sentence(found)}


def sentence(found: Mapping[str, Any]) -> str:
    """The outcome in words."""
    model = _model(found, DISTILLED)
    titles = _titles(found)
    parts = [f"{titles[group]} by {_told(one, ' points')}" for group, one in model["groups"].items()]
    return (
        f"Distilling changed {', '.join(parts)} against the siamese model (with 95 % intervals); both give the same answer to "
        f"{percent(model['same_answers'])} % of {model['questions']} questions."
    )


def markdown(found: Mapping[str, Any]) -> str:
    """The table in Markdown, with the sentence below; each change is the model's against the siamese one's, with its 95 % interval."""
    titles = _titles(found)
    groups = list(_model(found, SIAMESE)["groups"])
    head = ["model", *(cell for group in groups for cell in (f"{titles[group]}, %", "points")), "same answers, %"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in found["models"]:
        own = one["name"] == SIAMESE
        cells = [(percent(part["accuracy"]), "" if own else _told(part)) for part in one["groups"].values()]
        same = "" if own else percent(one["same_answers"])
        lines.append([LABELS[one["name"]], *(cell for pair in cells for cell in pair), same])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{found['sentence']}"


def _beside(model: Mapping[str, Any], siamese: Mapping[str, Any], target: str | None) -> dict[str, Any]:
    groups = {}
    for group in GROUPS:
        names = [name for name, task in siamese["tasks"].items() if task["group"] == group and name != target]
        names = [target] if group == TARGET and target is not None else names
        if names:
            groups[group] = _group([model["tasks"][name] for name in names], [siamese["tasks"][name] for name in names])
    questions = sum(one["n"] for one in groups.values())
    same = sum(one["same_answers"] * one["n"] for one in groups.values()) / questions
    return {"groups": groups, "same_answers": same, "questions": questions}


def _group(model: Sequence[Mapping[str, Any]], siamese: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tasks of a group; their mean counts each alike, the share of same answers each question."""
    pairs = [(task["answers"], other["answers"]) for task, other in zip(model, siamese, strict=True)]
    found = mean([change([one["correct"] for one in before], [one["correct"] for one in after]) for after, before in pairs])
    same = [_plain(one) == _plain(other) for after, before in pairs for one, other in zip(after, before, strict=True)]
    return {
        "accuracy": sum(task["accuracy"] for task in model) / len(model),
        "change": found.value,
        "interval": [found.low, found.high],
        "n": found.n,
        "same_answers": sum(same) / len(same),
    }


def _plain(answer: Mapping[str, Any]) -> str:
    return normalise(answer["answer"])


def _titles(found: Mapping[str, Any]) -> dict[str, str]:
    return {TARGET: found["target_task"] or "target", **HELD_OUT}


def _model(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(one for one in found["models"] if one["name"] == name)


def _told(part: Mapping[str, Any], unit: str = "") -> str:
    low, high = part["interval"]
    return f"{points(part['change'])}{unit} ({points(low)} to {points(high)})"
