"""A real Slurm on this machine: a controller with two nodes of one CPU each, in a folder of its own."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
FINISHED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
LAUNCHERS = ("SLURM", "SBATCH", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "PERENNIAL_PYTHON")

# cred_expire: a requeued job waits until its old credential is void, by default for two minutes.
SLURM_CONF = """\
ClusterName=perennial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=10
MinJobAge=3600
ReturnToService=2
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running Slurm; `environment` is for what talks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run(self, *words: object, extra: Mapping[str, str] | None = None) -> str:
        """Output of a command that must succeed."""
        command = [str(word) for word in words]
        done = subprocess.run(command, env={**self.environment, **(extra or {})}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait_until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Waits for something to hold; fails when it takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds:.0f} s")
            time.sleep(0.1)

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What scontrol knows of a job or of each task of an array, tasks in order."""
        lines = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        return sorted(found, key=lambda one: one.get("ArrayTaskId", ""))

    def wait_for(self, job: str, seconds: float = 150) -> list[dict[str, str]]:
        """The job, or the tasks of the array, once all are at their end."""
        self.wait_until(lambda: all(one["JobState"] in FINISHED for one in self.jobs(job)), seconds, f"job {job} ends")
        return self.jobs(job)

    def stop_jobs(self) -> None:
        """Cancels whatever is left."""
        subprocess.run(["scancel", "--user", getpass.getuser()], env=self.environment, timeout=60, check=False)
        self.wait_until(lambda: not self.run("squeue", "--noheader"), 60, "the queue is empty")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that all tests share; REQUIRE_SLURM=1 makes it a failure that there is none."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        reason = f"Slurm is not installed here ({', '.join(missing)} not found); on Debian or Ubuntu: apt-get install slurm-wlm munge"
        pytest.fail(reason) if os.environ.get("REQUIRE_SLURM") else pytest.skip(reason)
    # Not below pytest's own folder: the path of munge's socket must stay short.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder, _daemons(Path(folder)) as started:
        yield started


@contextlib.contextmanager
def _daemons(folder: Path) -> Iterator[Cluster]:
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(3)
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "controller_port": ports[0]}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(port_1=ports[1], port_2=ports[2], **values), encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    munge = [f"--{option}={folder}/munge.{option}" for option in ("socket", "pid-file", "log-file", "seed-file")]
    cluster = Cluster(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(cluster, "munged", "--foreground", "--force", f"--key-file={key}", *munge))
        cluster.wait_until((folder / "munge.socket").exists, 30, "munged is up")
        stack.enter_context(_daemon(cluster, "slurmctld", "-D"))
        for node in ("n1", "n2"):
            stack.enter_context(_daemon(cluster, "slurmd", "-D", "-N", node))
        cluster.wait_until(lambda: _idle(cluster) == 2, 60, f"both nodes of {folder} are idle")
        stack.callback(cluster.stop_jobs)
        yield cluster


@contextlib.contextmanager
def _daemon(cluster: Cluster, *command: str) -> Iterator[None]:
    with open(cluster.folder / "daemons.log", "a") as log:
        process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _idle(cluster: Cluster) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], env=cluster.environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.split().count("idle")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
