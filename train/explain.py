"""Validation errors in words that name path, value, expectation and remedy."""

import difflib
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Turns all problems of a failed validation into one message, a line for each.

    Args:
        error: What pydantic raised.
        root: The class that was validated; nearest names are looked up in its fields.
    """
    problems = error.errors()
    # A broken entry makes its list fail as well ("should have at least 1 item"): that says nothing new.
    told = [one for one in problems if not any(_is_inside(other["loc"], one["loc"]) for other in problems)]
    return "\n  ".join(_line(problem, root) for problem in told)


def _is_inside(inner: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def _line(problem: Any, root: type[BaseModel]) -> str:
    location: Sequence[str | int] = problem["loc"]
    path = ".".join(map(str, location))
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        owner = _owner(root, location[:-1])
        known = list(owner.model_fields) if owner is not None else []
        return f"{path}: unknown key{_did_you_mean(str(location[-1]), known)}. Known keys: {', '.join(known)}"
    if kind == "missing":
        return f"{path}: missing; add it to the recipe, or give --{path} VALUE"
    if kind == "literal_error":
        known = [word.strip().strip("'") for word in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{path}: got {value!r}, expected one of {', '.join(known)}{_did_you_mean(str(value), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: got {_short(value)}; it {message[:1].lower() + message[1:] if not message.startswith('Input ') else message[6:]}"


def _owner(root: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The config class that stands at a path."""
    current: Any = root
    for word in location:
        if isinstance(word, str) and isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(word)
            current = _config_class(field.annotation) if field is not None else None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _config_class(annotation: Any) -> Any:
    """The config class inside `X | None`, `tuple[X, ...]` or `X` itself."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    found = (_config_class(one) for one in typing.get_args(annotation) if one is not Ellipsis)
    return next((one for one in found if one is not None), None)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
