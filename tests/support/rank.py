"""One process of a pool: takes jobs from a pipe, calls them, answers; ranks.py starts it as `python rank.py FILE_DESCRIPTOR`."""

import faulthandler
import gc
import importlib.util
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent


def main() -> None:
    """Serves until the pipe is closed."""
    faulthandler.enable()  # on SIGABRT, from gloo or from who waits for us, the stack of every thread is shown
    sys.path[:0] = [str(ROOT), str(SUPPORT)]
    pipe = Connection(int(sys.argv[1]))
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            file, name, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(lambda: getattr(_module(file, modules), name)(**arguments)))  # noqa: B023 - called at once
        gc.collect()


def _outcome(job: Any) -> tuple[bool, Any]:
    try:
        return True, job()
    except Exception:  # noqa: BLE001 - the other side raises it
        return False, traceback.format_exc()


def _module(file: str, modules: dict[str, ModuleType]) -> ModuleType:
    """The module of a file; a test file has no name of its own to import it by."""
    if file not in modules:
        spec = importlib.util.spec_from_file_location(f"job_{Path(file).stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        modules[file] = module
    return modules[file]


if __name__ == "__main__":
    main()
