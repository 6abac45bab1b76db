"""Measures training beside transformers' Trainer, TRL, LLaMA-Factory, ms-swift: one LLaVA, one data set, one machine, one run.

    make bench NAME=training ARGS="--venvs FOLDER"

Every product runs in a process of its own; TRL, LLaMA-Factory and ms-swift in environments of their own, made in FOLDER where they are not
there yet (by uv, some 5 GB each); without --venvs they are left out. All read the same model folder and the same records (see
scripts/bench/peers/material.py), train the same tensors in float32 with AdamW at one constant rate, take the same number of samples a step,
log each step. All are started first, then take turns of one epoch each, on one core: one epoch to warm up, then --rounds epochs that count.
Compared are the shortest turns: seconds for each real token, which padding is not; and the most memory a process had.
Results: runs/bench/training.json. What to make of them: docs/speed.md.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PEERS = Path(__file__).parent / "peers"
COMMON = ("torch==2.15.0", "torchvision==0.29.2", "psutil")
IDLE = 0.05  # share of all cores that others may take
SAME = 0.01  # by how much the tokens of an epoch may differ
RATE = 1e-3
MARK = "<!-- training -->"
TRAINS = ("llm+projector", "sa_proj")
TOKENS = 102  # of a sample, on average


@dataclass(frozen=True, kw_only=True)
class Product:
    """Who trains.

    Attributes:
        script: In scripts/bench/peers.
        package: What to install, and to name the version of; None: what this environment has.
        unwanted: Dependencies that cannot be imported beside `COMMON`.
        packed: Whether rows hold several samples.
    """

    script: str
    package: str | None = None
    unwanted: tuple[str, ...] = ()
    packed: bool = False


PRODUCTS = {
    "perennial, packed": Product(script="with_perennial.py", packed=True),
    "perennial, padded": Product(script="with_perennial.py"),
    "transformers": Product(script="with_transformers.py"),
    "trl": Product(script="with_trl.py", package="trl==1.16.0"),
    "llamafactory": Product(script="with_llamafactory.py", package="llamafactory==0.9.5", unwanted=("torchaudio",)),
    "ms-swift": Product(script="with_swift.py", package="ms-swift==4.6.0"),
}
VERSIONS = ("torch", "transformers", "accelerate", "deepspeed", "trl", "llamafactory", "ms-swift")


class Failure(Exception):
    """A product did not do what it was to do; the message says what it wrote last."""


class Runner:
    """A product's process.

    Args:
        python: Whose interpreter.
        product: What runs.
        setting: What peers/meter.py's `setting` reads.
        core: The core that it is bound to once it has started.
    """

    def __init__(self, python: Path, product: Product, setting: dict[str, Any], core: int) -> None:
        reading, writing = os.pipe()
        self._log = Path(setting["output"]) / "log.txt"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        words = [str(python), str(PEERS / product.script), json.dumps(setting | {"to": writing})]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # they import each other
        environment |= one | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, env=environment, pass_fds=[writing], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, cwd=self._log.parent
            )
        os.close(writing)
        self._lines, self._core = os.fdopen(reading), core

    def answer(self) -> dict[str, Any]:
        """Waits for what it has to tell.

        Raises:
            Failure: It ended.
        """
        line = self._lines.readline()
        if not line:
            raise Failure(f"{last_words(self._log)} (all of it: {self._log})")
        return dict(json.loads(line))

    def bind(self) -> None:
        """Leaves it a single core; while it starts it may use all."""
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {self._core})

    def turn(self) -> dict[str, Any]:
        """Lets it train for an epoch."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._lines.close()


def main() -> int:
    """Prints a table for each set of trained tensors, writes the JSON; exit code 1 when a product failed or a peer was faster."""
    options = arguments()
    busy = psutil.cpu_percent(interval=2) / 100
    if busy > IDLE and not options.force:
        print(f"other processes take {busy:.0%} of the cores; stop them, or --force a result that is marked so", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    folder = options.output.parent.absolute() / "training"
    pythons = {name: python for name in options.only if (python := interpreter(PRODUCTS[name], options.venvs)) is not None}
    for name in set(options.only) - set(pythons):
        print(f"{name}: left out, since --venvs names no folder for its environment")
    words = [sys.executable, str(PEERS / "material.py"), str(folder), "--records", str(options.batch * options.steps)]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    versions = {name: versions_of(python) for name, python in pythons.items()}
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions, "results": {}}
    record |= {"batch": options.batch, "steps": options.steps, "rounds": options.rounds, "others_before": busy}
    print("\n".join(f"{name}: " + ", ".join(f"{one} {number}" for one, number in found.items()) for name, found in versions.items()))
    fine = True
    for trains in options.trains:
        found, load = compare(pythons, trains, options, folder)
        record["results"][trains] = {"others": load, "products": found}
        fine = show(trains, found, load) and fine
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")
    if options.document is not None:
        before, rest = options.document.read_text(encoding="utf-8").split(f"{MARK}\n", 1)
        document = f"{before}{MARK}\n{table(record)}<!-- /training -->{rest.partition('<!-- /training -->')[2]}"
        options.document.write_text(document, encoding="utf-8")
    return int(not fine)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, help="folder of the peers' environments, made where missing (default: leave such peers out)")
    parser.add_argument("--only", nargs="+", choices=PRODUCTS, default=list(PRODUCTS), help="products (default: all)")
    parser.add_argument(
        "--trains", nargs="+", choices=("llm+projector", "sa_proj"), default=["llm+projector", "sa_proj"], help="what trains"
    )
    parser.add_argument("--rounds", type=int, default=5, help="epochs that count, at least 5 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="samples of a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps of an epoch (default: %(default)s)")
    parser.add_argument("--row", type=int, default=256, help="tokens of a packed row (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine; the result says so")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/training.json"), help="file to write (default: %(default)s)")
    parser.add_argument("--document", type=Path, help="page whose table is written anew, docs/speed.md")
    options = parser.parse_args()
    if options.steps < 2 or options.batch < 1:
        parser.error(f"--steps {options.steps}, --batch {options.batch}: expected 2 steps or more, of 1 sample or more")
    if options.rounds < 5 and not options.force:
        parser.error(f"--rounds: got {options.rounds}, expected 5 or more; fewer say little")
    return options


def interpreter(product: Product, venvs: Path | None) -> Path | None:
    """The Python of a product's environment, which is made where it is missing; None where it may not be."""
    if product.package is None:
        return Path(sys.executable)
    if venvs is None:
        return None
    venv = venvs.absolute() / product.package
    python = venv / "bin" / "python"
    if not (venv / ".done").is_file():
        print(f"making {venv}")
        uv = str(Path(sys.executable).with_name("uv")) if Path(sys.executable).with_name("uv").is_file() else "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), product.package, *COMMON], check=True)
        for name in product.unwanted:
            subprocess.run([uv, "pip", "uninstall", "--quiet", "--python", str(python), name], check=True)
        (venv / ".done").touch()
    return python


def compare(pythons: dict[str, Path], trains: str, options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], float]:
    """Starts all products, lets them take turns; gives what each came to, or why not, then the most that others took meanwhile."""
    found: dict[str, Any] = {}
    core, load = max(os.sched_getaffinity(0)), 0.0
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name, python in pythons.items():
            runner = stack.enter_context(closing(Runner(python, PRODUCTS[name], setting_of(name, trains, options, folder), core)))
            runners[name], found[name] = runner, {"turns": []}
        for turn in range(-1, options.rounds + 1):
            print(f"{trains}: {'start' if turn < 0 else f'epoch {turn} of {options.rounds}'}", file=sys.stderr)
            for name, runner in list(runners.items()):
                before = cores_busy()
                try:
                    told = runner.turn() if turn >= 0 else runner.answer()
                except Failure as failure:
                    found[name] = {"failure": str(failure)}
                    del runners[name]
                    continue
                if turn < 0:
                    runner.bind()
                    found[name] |= told
                    continue
                found[name]["turns"].append(told)
                load = max(load, (cores_busy() - before - told["core"]) / told["seconds"] / os.cpu_count())
    for name in runners:
        found[name] |= summary(found[name]["turns"])
    return found, load


def setting_of(name: str, trains: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a product is told; a packed batch holds about as many tokens as the others' samples do."""
    packed, output = PRODUCTS[name].packed, folder / trains / name.replace(", ", "-")
    shutil.rmtree(output, ignore_errors=True)
    setting: dict[str, Any] = {"folder": str(folder), "model": str(folder / "model"), "output": str(output), "trains": trains}
    setting |= {"batch": options.batch, "steps": options.steps, "turns": options.rounds + 1, "rate": RATE}
    rows = max(1, round(options.batch * TOKENS / options.row))
    return setting | {"row": options.row if packed else None, "rows": rows if packed else options.batch}


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """What the turns behind the first come to; times are the shortest turn's, in seconds for each real token."""
    each, core = ([turn[kind] / turn["tokens"] for turn in turns[1:]] for kind in ("seconds", "core"))
    first, last = (sum(turn["losses"]) / len(turn["losses"]) for turn in (turns[0], turns[-1]))
    return {
        "seconds_per_token": min(each),
        "spread": max(each) / min(each) - 1,
        "core_seconds_per_token": min(core),
        "peak": max(turn["peak"] for turn in turns),
        "padding": 1 - sum(turn["tokens"] for turn in turns) / sum(turn["positions"] for turn in turns),
        "loss": [first, last],
        "learned": all(math.isfinite(loss) for turn in turns for loss in turn["losses"]) and last < first,
    }


def show(trains: str, found: dict[str, Any], load: float) -> bool:
    """Prints what was found; gives whether all went well with no peer ahead."""
    well = {name: one for name, one in found.items() if "failure" not in one}
    print(f"\n{trains} trains; other processes took up to {load:.0%} of the cores" + (" (BUSY: times say little)" if load > IDLE else ""))
    print(f"times: how many times as much as {next(iter(well), 'nobody')}")
    columns = ("us/token", "spread", "core us/token", "times", "peak MiB", "times", "padding", "loss", "then")
    print(f"{'':<20}" + "".join(f"{column:>14}" for column in columns))
    ours = next(iter(well.values()), {})
    for name, one in found.items():
        if name not in well:
            print(f"{name:<20} failed: {one['failure']}")
            continue
        speed, memory = one["seconds_per_token"], one["peak"]
        cells = [f"{speed * 1e6:,.0f}", f"{one['spread']:.1%}", f"{one['core_seconds_per_token'] * 1e6:,.0f}"]
        cells += [f"{speed / ours['seconds_per_token']:.2f}", f"{memory / 2**20:,.0f}", f"{memory / ours['peak']:.2f}"]
        cells += [f"{one['padding']:.1%}", *(f"{loss:.3f}" for loss in one["loss"])]
        print(f"{name:<20}" + "".join(f"{cell:>14}" for cell in cells))
    problems = [*unequal(well), *(f"{name}: the loss did not fall" for name, one in well.items() if not one["learned"])]
    print("".join(f"{problem}\n" for problem in problems), end="")
    ahead = [name for name, one in well.items() if one["seconds_per_token"] < ours["seconds_per_token"] or one["peak"] < ours["peak"]]
    return not problems and len(well) == len(found) and not ahead


def table(record: dict[str, Any]) -> str:
    """The results as a page shows them."""
    lines = [f"Written by `scripts/bench/training.py` on {record['date']}: {record['machine']}; {record['rounds']} epochs of each.", ""]
    for trains, result in record["results"].items():
        busy = (
            f" **Others took up to {result['others']:.0%} of the cores meanwhile: not to be trusted.**" if result["others"] > IDLE else ""
        )
        lines += [f"`{trains}` trains.{busy}", "", "| product | us a real token (spread) | times | peak MiB | times | padding |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        ours = next((one for one in result["products"].values() if "failure" not in one), {})
        for name, one in result["products"].items():
            version = record["versions"][name].get(name, "")
            if "failure" in one:
                lines.append(f"| {name} {version} | did not run: {one['failure']} | | | | |")
                continue
            cells = [f"{one['seconds_per_token'] * 1e6:,.0f} ({one['spread']:.1%})"]
            cells += [f"{one['seconds_per_token'] / ours['seconds_per_token']:.2f}", f"{one['peak'] / 2**20:,.0f}"]
            cells += [f"{one['peak'] / ours['peak']:.2f}", f"{one['padding']:.1%}"]
            lines.append(f"| {name} {version} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def unequal(found: dict[str, Any]) -> Iterator[str]:
    """What is not the same for all: the parameters that train; the tokens of an epoch, where a batch is so many samples."""
    trainable = {name: one["trainable"] for name, one in found.items()}
    if len(set(trainable.values())) > 1:
        yield f"not the same parameters train: {trainable}"
    tokens = {name: sum(turn["tokens"] for turn in one["turns"]) for name, one in found.items() if not PRODUCTS[name].packed}
    if tokens and max(tokens.values()) > (1 + SAME) * min(tokens.values()):
        yield f"not the same tokens were seen: {tokens}"


def last_words(log: Path) -> str:
    """The last line that a process wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def cores_busy() -> float:
    """Seconds that the cores have worked since the machine started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def versions_of(python: Path) -> dict[str, str]:
    """What is installed there of `VERSIONS`."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout)
    installed = {name.lower().replace("_", "-"): version for name, version in installed.items()}
    return {name: installed[name] for name in VERSIONS if name in installed}


def machine() -> str:
    """The processor, in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores, one used; {psutil.virtual_memory().total / 2**30:.0f} GiB; {platform.system()}"


if __name__ == "__main__":
    sys.exit(main())
