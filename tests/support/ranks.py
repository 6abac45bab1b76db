"""Two processes, joined by gloo once, that run a test's functions side by side."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("rank.py")
ROOT = Path(__file__).parents[2]
START_LIMIT = 240  # seconds until both have imported everything and found each other, on two busy cores
GRACE = 5.0  # seconds that the other rank may take once one has failed
SHOWN = 6000  # characters of a rank's output in a message


class RankFailure(AssertionError):
    """A job did not end well on every rank; the message says on which and how, with what each of them wrote."""


def join() -> None:
    """What a rank does first: imports everything that a training needs, finds the others."""
    from train import distributed, run  # noqa: F401 - the imports take ten seconds

    distributed.start()
    distributed.wait()


class Ranks:
    """A pool of processes of one group; it starts with its first job, anew after a job that failed.

    Args:
        folder: Where the ranks' output goes.
        count: Number of ranks.
        first: What each calls before its first job.
        device: "cpu" or "cuda"; a rank on "cpu" sees no GPU.
    """

    def __init__(self, folder: Path, count: int = 2, first: Callable[[], Any] = join, device: str = "cpu") -> None:
        self.folder, self.count, self.first, self.device = folder, count, first, device
        self._starts = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *, limit: float = 120.0, **arguments: Any) -> list[Any]:
        """Calls a function on every rank; gives what each returned.

        Args:
            function: At the top level of a module or test file; each rank imports that file, so it sees nothing that the test has patched.
            limit: Seconds until the job counts as hung.
            arguments: Plain data, the same for every rank. Results are plain data, too.

        Raises:
            RankFailure: "hang" where a rank was not done in time; else which rank raised what, or died. Afterwards the group is a new one.
        """
        if not self._processes:
            self._start()
        return self._call(function, limit, arguments)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
        self._end()

    def _start(self) -> None:
        self._starts += 1
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        for rank in range(self.count):
            ours, theirs = Pipe()
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count, "MASTER_PORT": port}
            environment = os.environ | {name: str(value) for name, value in numbers.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": self.device}
            environment |= {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
            with self._output(rank).open("wb") as output:
                words = [sys.executable, str(WORKER), str(theirs.fileno())]
                process = subprocess.Popen(
                    words, env=environment, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self._call(self.first, START_LIMIT, {})

    def _call(self, function: Callable[..., Any], limit: float, arguments: dict[str, Any]) -> list[Any]:
        file = function.__code__.co_filename
        try:
            for pipe in self._pipes:
                pipe.send((file, function.__name__, arguments))
            return self._answers(f"{Path(file).name}: {function.__name__}", limit)
        except BaseException:
            self._end()  # where a test was stopped from outside, its answers must not reach the next one
            raise

    def _answers(self, job: str, limit: float) -> list[Any]:
        """Waits for every rank; at the first failure the others have a moment to follow, then all are ended."""
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + limit
        while len(answers) + len(failures) < self.count:
            waiting = [rank for rank in range(self.count) if rank not in answers and rank not in failures]
            ready = wait([self._pipes[rank] for rank in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for rank in waiting:
                if self._pipes[rank] in ready:
                    self._take(rank, answers, failures)
            if failures:
                deadline = min(deadline, time.monotonic() + GRACE)
        late = [rank for rank in range(self.count) if rank not in answers and rank not in failures]
        if failures or late:
            raise RankFailure(self._told(job, limit, failures, late))
        return [answers[rank] for rank in range(self.count)]

    def _take(self, rank: int, answers: dict[int, Any], failures: dict[int, str]) -> None:
        try:
            went_well, value = self._pipes[rank].recv()
        except (EOFError, ConnectionError):
            code = self._processes[rank].wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            failures[rank] = f"died: {name}"
            return
        (answers if went_well else failures)[rank] = value

    def _told(self, job: str, limit: float, failures: dict[int, str], late: list[int]) -> str:
        """What happened, after every rank was ended and has shown where it stood."""
        self._end()
        words = [f"rank {rank} failed: {failure}" for rank, failure in sorted(failures.items())]
        if late and failures:
            words.append(f"rank {', '.join(map(str, late))} waited for it")
        elif late:
            words.append(f"hang: rank {', '.join(map(str, late))} not done within {limit:g} s")
        return f"{job}: {'; '.join(words)}\n" + "\n".join(self._written(rank) for rank in range(self.count))

    def _written(self, rank: int) -> str:
        """The end of a rank's output, without faulthandler's page of extension modules."""
        lines = self._output(rank).read_text(errors="replace").splitlines()
        shown = "\n".join(line for line in lines if not line.startswith("Extension modules:"))
        return f"--- rank {rank} ---\n{shown[-SHOWN:]}"

    def _end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGABRT)  # faulthandler then shows every thread's stack
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def _output(self, rank: int) -> Path:
        return self.folder / f"ranks-{self._starts}-{rank}.txt"
