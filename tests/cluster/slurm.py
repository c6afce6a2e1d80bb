"""Slurm of the machine's own packages, in a folder: one controller and two nodes that are this machine twice.

Takes nothing from /etc and leaves nothing behind: configuration, keys and states lie in the folder, every daemon is a
child of this process. The nodes claim eight cores and four GPUs each; nothing watches over either.

    apt-get install slurm-wlm munge
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.training.processes import TIMEOUT, free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "salloc", "scontrol", "squeue", "scancel")

CONFIG = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=16000 Gres=gpu:4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=16000 Gres=gpu:4
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root alone"


class Slurm:
    """The running cluster; ends all of it, jobs included, when it is left.

    Args:
        folder: an empty one.
        environment: of the jobs, and of the commands that submit them.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons = ExitStack()

    def __enter__(self) -> "Slurm":
        folder, host = self.folder, socket.gethostname().partition(".")[0]
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        (folder / "state").mkdir()
        for node in ("n1", "n2"):
            (folder / f"spool-{node}").mkdir()
        ports = [free_port() for _ in range(3)]
        (folder / "slurm.conf").write_text(CONFIG.format(host=host, folder=folder, ports=ports))
        for gpu in range(4):
            (folder / f"gpu{gpu}").symlink_to("/dev/null")  # Slurm wants a device file
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
        with ExitStack() as started:  # ended here where one does not start
            self._daemons = started
            self._start_all()
            self._daemons = started.pop_all()
        return self

    def _start_all(self) -> None:
        folder = self.folder
        files = (f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "seed", "log"))
        self._start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        _until(lambda: (folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        _until(lambda: self.run("sinfo", "--noheader", "--format=%t", check=False) == "idle", "idle nodes")

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--user=root", check=False)
        _until(lambda: not self.run("squeue", "--noheader", check=False), "the end of all jobs")
        self._daemons.close()

    def run(self, *command: str, cwd: Path | None = None, check: bool = True) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def submit(self, folder: Path, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """The number of a job that runs `script` with `arguments` in `folder`; its output goes to <number>.out."""
        (folder / "job.sh").write_text(script)
        return self.run("sbatch", "--parsable", "--output=%j.out", *options, "job.sh", *arguments, cwd=folder)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", words))

    def end_of(self, number: str) -> tuple[str, str]:
        """The state in which a job ended, and its exit code; waits for it."""
        _until(lambda: self.job(number)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), f"job {number}")
        job = self.job(number)
        return job["JobState"], job["ExitCode"]

    def _start(self, *command: str) -> None:
        output = self._daemons.enter_context((self.folder / "daemons.log").open("a"))
        daemon = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        self._daemons.callback(daemon.wait)
        self._daemons.callback(daemon.terminate)


def _until(seen, what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not seen():
        assert time.monotonic() < end, f"waited {TIMEOUT} s for {what}"
        time.sleep(0.2)  # leaves the processor to what is waited for
