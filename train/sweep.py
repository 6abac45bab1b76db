"""The models that a knob leads through, evaluated one after the other.

A value chosen on the suite that is then reported flatters the result, as any choice made on test questions does: `--dev-suite` lets another
suite choose.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.atomic import write_json, write_text
from data.fingerprint import fingerprint, key_of
from data.index import cache_folder
from train.evaluate.comparison import check, percent, points, retention, rows
from train.evaluate.evaluation import FILE_NAME, load, save
from train.evaluate.tasks import Suite
from train.folders import remove
from train.points import Line
from train.rows import tell
from train.sequence_record import suite_key

BASE, TUNED = "base", "tuned"
RESULT, FIGURE, TABLE = "sweep.json", "sweep.png", "sweep.md"
REPORTED, DEV = "suite", "dev"  # the suite that is reported, the one that chooses
SLACK = 1e-9  # a loss of exactly the rule's points is allowed, whatever floats make of it

Evaluate = Callable[[Path, Suite], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked for.

    Attributes:
        command: Such as "wise-ft".
        knob: What its values are called, such as "alpha".
        values: In rising order.
        settings: What else makes a point, JSON-ready.
        folder: Where results are written.
        suites: "suite" -> what is reported, with or without "dev" -> what chooses.
        target: Task that was tuned for; None: the mean over all target tasks.
        rule: Points of retention that the chosen value may lose against the base.
        limit: At most so many questions of each task; None: all.
        keep: Whether the models stay.
    """

    command: str
    knob: str
    values: tuple[float, ...]
    settings: Mapping[str, Any]
    folder: Path
    suites: Mapping[str, Suite]
    target: str | None
    rule: float
    limit: int | None
    keep: bool

    def __post_init__(self) -> None:
        for suite in self.suites.values():
            tasks = {task.name: task.group for task in suite.tasks}
            if self.target is not None and self.target not in tasks:
                raise ValueError(f"target: {suite.path} has no task {self.target!r}; its tasks: {', '.join(tasks)}")
            if self.target is None and "target" not in tasks.values():
                raise ValueError(f"{suite.path} has no task of group target; name the task that was tuned for with --target")
            if set(tasks.values()) <= {"target"}:
                raise ValueError(f"{suite.path} has no held-out task, so nothing tells what was lost; add tasks of a held-out group")

    def name(self, value: float) -> str:
        """Of a point, as its folder is called."""
        return f"{self.knob}-{value:g}"


def run_sweep(sweep: Sweep, line: Line, evaluate: Evaluate, *, progress: bool = True) -> dict[str, Any]:
    """Evaluates base, tuned model, every value; what an earlier call evaluated is not asked again.

    Args:
        sweep: What is asked for.
        line: From `train.points`.
        evaluate: Gives the evaluation of a model folder on a suite, as `train.sequence.evaluator` does.
        progress: Whether to tell which point is at work, how long the rest may take.

    Returns:
        What sweep.json holds, see `summary`.
    """
    from train.sweep_figures import draw

    work = Work(sweep, line, evaluate, progress)
    work.evaluate_all()
    found = summary(sweep, work.evaluations())
    write_json(sweep.folder / RESULT, found)
    write_text(sweep.folder / TABLE, f"{markdown(found)}\n")
    draw(found, sweep.folder / FIGURE)
    return found


class Work:
    """A sweep at work.

    Args:
        sweep: What is asked for.
        line: Writes the points.
        evaluate: Asks the questions.
        progress: Whether to tell.
    """

    def __init__(self, sweep: Sweep, line: Line, evaluate: Evaluate, progress: bool) -> None:
        self.sweep, self.line, self.evaluate, self.progress = sweep, line, evaluate, progress
        ends = {BASE: model_key(line.base), TUNED: model_key(line.tuned)}
        keys = {value: key_of(sweep.command, value, dict(sweep.settings), ends) for value in sweep.values}
        self.models = ends | {sweep.name(value): keys[value] for value in sweep.values}
        self.suites = {part: key_of(suite_key(suite), sweep.limit) for part, suite in sweep.suites.items()}
        self.same_as = {sweep.name(value): line.ends[value] for value in sweep.values if value in line.ends}
        self.seconds: list[float] = []

    def evaluate_all(self) -> None:
        """Every point that has no evaluation yet."""
        waiting = [name for name in self.models if name not in self.same_as and (self._missing(name) or self._lacks_model(name))]
        for at, name in enumerate(waiting):
            start = time.perf_counter()
            left = sum(self.seconds) / len(self.seconds) * (len(waiting) - at) if self.seconds else None
            tell(f"{self.sweep.command}: {name} (point {at + 1} of {len(waiting)}{_about(left)})", self.progress)
            self._evaluate(name)
            self.seconds.append(time.perf_counter() - start)
        for name, end in self.same_as.items():
            for part in self.sweep.suites:
                save(load(self._place(end, part)) | {"key": self._key(name, part), "same_as": end}, self._place(name, part))

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """For each suite the evaluations by the points' names."""
        return {part: {name: load(self._place(name, part)) for name in self.models} for part in self.sweep.suites}

    def _evaluate(self, name: str) -> None:
        folder = self.sweep.folder / "points" / name / "model"
        model = {BASE: self.line.base, TUNED: self.line.tuned}.get(name)
        if model is None:
            remove(folder)
            model = self.line.write(next(value for value in self.sweep.values if self.sweep.name(value) == name), folder)
        for part in self._missing(name):
            limited = self.sweep.suites[part].limited(self.sweep.limit)
            save(self.evaluate(model, limited) | {"model": str(model), "key": self._key(name, part)}, self._place(name, part))
            gc.collect()  # cycles hold a model's weights
        if not self.sweep.keep:
            remove(folder)

    def _missing(self, name: str) -> list[str]:
        """The suites on which a point is to be evaluated."""
        return [part for part in self.sweep.suites if not self._is_done(self._place(name, part), self._key(name, part))]

    def _lacks_model(self, name: str) -> bool:
        """Whether a point's model is to stay, but is not there."""
        return self.sweep.keep and name not in (BASE, TUNED) and not (self.sweep.folder / "points" / name / "model").is_dir()

    @staticmethod
    def _is_done(place: Path, key: str) -> bool:
        return (place / FILE_NAME).is_file() and load(place).get("key") == key

    def _place(self, name: str, part: str) -> Path:
        folder = self.sweep.folder / "points" / name
        return folder if part == REPORTED else folder / part

    def _key(self, name: str, part: str) -> str:
        return key_of(self.models[name], self.suites[part])


def model_key(folder: Path) -> str:
    """Key of a model's weights, whole or as parts; hashes of files are kept, so that they are read once."""
    files = [*folder.glob("*.safetensors"), *folder.glob("adapter/*.safetensors"), *folder.glob("adapter/*.json")]
    files += [file for file in (folder / "config.json", folder / "base.json") if file.is_file()]
    states = fingerprint(sorted(files), cache_folder())
    return key_of([[str(Path(one.name).relative_to(folder)), one.sha256] for one in states])


def summary(sweep: Sweep, evaluations: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    """All numbers of a sweep: shares lie in 0..1, changes are point - base, retention is the mean change of the held-out groups.

    Args:
        sweep: What was asked for.
        evaluations: For each suite the evaluations by the points' names.

    Returns:
        JSON-ready: `command`, `knob`, `settings`, `suite`, `dev_suite`, `target_task`, `rule`, `limit`, `points` (each `name`, `value`,
        `target`, `held_out_text`, `held_out_visual`, `retention`, `number_token_probability`, `evaluation`), `best` (a value or None),
        `chosen_on`, `sentence`; with a second suite `dev_points`.
    """
    tables = {part: _points(sweep, found, part) for part, found in evaluations.items()}
    chosen_on = DEV if DEV in tables else REPORTED
    best = choose(tables[chosen_on], sweep.rule)
    found = {
        "command": sweep.command,
        "knob": sweep.knob,
        "settings": dict(sweep.settings),
        "suite": sweep.suites[REPORTED].name,
        "dev_suite": sweep.suites[DEV].name if DEV in sweep.suites else None,
        "target_task": sweep.target,
        "rule": sweep.rule,
        "limit": sweep.limit,
        "points": tables[REPORTED],
        "best": None if best is None else best["value"],
        "chosen_on": chosen_on,
    }
    found |= {"dev_points": tables[DEV]} if DEV in tables else {}
    return found | {"sentence": sentence(found)}


def choose(found: Sequence[Mapping[str, Any]], rule: float) -> Mapping[str, Any] | None:
    """The value with the highest target among those that lose at most `rule` points of retention; of equal ones, that which loses least."""
    allowed = [one for one in found if one["value"] is not None and 100 * one["retention"] >= -rule - SLACK]
    return max(allowed, key=lambda one: (one["target"], one["retention"]), default=None)


def sentence(found: Mapping[str, Any]) -> str:
    """The outcome in words: which value the rule chooses, what it comes to."""
    by_name = {one["name"]: one for one in found["points"]}
    base, tuned = by_name[BASE], by_name[TUNED]
    swept = [one for one in found["points"] if one["value"] is not None]
    task, rule = found["target_task"] or "the target", f"{found['rule']:g} point{'' if found['rule'] == 1 else 's'} of retention"
    where = f" on {found['dev_suite']}" if found["chosen_on"] == DEV else ""
    if found["best"] is None:
        near = max(swept, key=lambda one: one["retention"])
        return f"No {found['knob']} loses at most {rule}{where}; {near['value']:g} loses least ({points(near['retention'])} points)."
    best = next(one for one in swept if one["value"] == found["best"])
    gain = f"{task} goes from {percent(base['target'])} to {percent(best['target'])} %"
    gain += f", retention changes by {points(best['retention'])} points"
    text = f"Of {len(swept)} values, {found['knob']} {best['value']:g} is the best that loses at most {rule}{where}: {gain}"
    text += f" (tuned model: {percent(tuned['target'])} %, {points(tuned['retention'])} points)"
    return text + ("." if found["chosen_on"] == DEV else "; chosen on the suite it is reported on, which flatters it.")


def markdown(found: Mapping[str, Any]) -> str:
    """The table in Markdown, with the sentence below."""
    task = found["target_task"] or "target"
    head = [found["knob"], f"{task}, %", "text, points", "images, points", "retention, points", "number tokens, %"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in found["points"]:
        label = one["name"] if one["value"] is None else f"{one['value']:g}"
        changes = [points(one[key]) for key in ("held_out_text", "held_out_visual", "retention")]
        cells = [label, percent(one["target"]), *changes, percent(one["number_token_probability"], 2)]
        lines.append([f"**{cell}**" for cell in cells] if one["value"] is not None and one["value"] == found["best"] else cells)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{found['sentence']}"


def _points(sweep: Sweep, found: Mapping[str, dict[str, Any]], part: str) -> list[dict[str, Any]]:
    values = {sweep.name(value): value for value in sweep.values}
    order = [BASE, *values, TUNED]
    runs = [{"name": name, "group": sweep.command, "target_task": sweep.target, "evaluation": found[name]} for name in order]
    check(runs, found[BASE])
    return [
        {
            "name": row["name"],
            "value": values.get(row["name"]),
            "target": row["target_after"],
            "held_out_text": row["text_change"],
            "held_out_visual": row["visual_change"],
            "retention": retention(row),
            "number_token_probability": row["number_probability_after"],
            "evaluation": "/".join(["points", row["name"], *([] if part == REPORTED else [part]), FILE_NAME]),
        }
        for row in rows(runs, found[BASE])
    ]


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds / 60:.0f} min left" if seconds >= 60 else f", about {seconds:.0f} s left"
