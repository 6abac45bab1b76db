"""Trains as a recipe says in one child process after the other, each killed with 9 at a place of its own, the last one not.

Started as `python killed.py RECIPE PLACE:STEP ...`; everything is imported once, before the first child. Prints how each child ended.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Forks, trains, waits; -9 stands for a kill, else the exit code."""
    sys.path.insert(0, str(ROOT))
    from train import run  # noqa: F401 - imports everything that a training needs

    recipe, *places = sys.argv[1:]
    for place in [*places, None]:
        child = os.fork()
        if child == 0:
            os._exit(_train(recipe, place))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _train(recipe: str, place: str | None) -> int:
    from train.cli import main as command

    if place is not None:
        where, _, step = place.partition(":")
        _trap(where, int(step))
    return command(["train", recipe])


def _trap(where: str, step: int) -> None:
    """Lets the process kill itself in a step's forward pass, or at a place in the saving of its state."""
    from train import integrity, resume, state, trainer

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "forward":
        compute_loss = trainer.MixtureTrainer.compute_loss

        def dying(self: Any, *arguments: Any, **options: Any) -> Any:
            if self.state.global_step == step - 1:
                die()
            return compute_loss(self, *arguments, **options)

        trainer.MixtureTrainer.compute_loss = dying  # type: ignore[method-assign]
        return
    save, save_file = resume.save, state.save_file

    def half_a_file(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        os.truncate(path, path.stat().st_size // 2)
        die()

    def dies(*_: Any, **__: Any) -> None:
        die()

    traps: dict[str, tuple[Any, str, Any]] = {
        "file": (state, "save_file", half_a_file),
        "manifest": (integrity, "seal", dies),
        "rename": (resume, "put_in_place", dies),
    }

    def save_and_die(a_trainer: Any, going: Any, at: int) -> Any:
        if at == step:
            setattr(*traps[where])
        return save(a_trainer, going, at)

    resume.save = save_and_die


if __name__ == "__main__":
    main()
