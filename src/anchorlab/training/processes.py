"""Process layout of a distributed run: its ranks, its launcher, and whether the settings agree; imports no torch.

Where neither torchrun nor srun did, Lightning starts the other processes of a machine itself. An allocation of Slurm is
not yet a start: its variables also stand in the shell of `salloc` and in a batch script, where one process runs.
"""

import os
import socket

from anchorlab.errors import SettingError

INTERACTIVE = ("bash", "interactive")
"""Names that Slurm gives to jobs in which people type. The tasks of an srun inside have the same name."""
ONE_TASK = "srun --ntasks=1 before the command"

NUMBERS = {
    "RANK": ("WORLD_SIZE", "MASTER_ADDR"),
    "LOCAL_RANK": ("WORLD_SIZE", "MASTER_ADDR"),
    "SLURM_PROCID": ("SLURM_NTASKS",),
}
"""Variables that number a process, in the order in which Lightning reads them; and what whoever started several sets
beside each."""


def process_rank() -> int:
    """This process's number among those that `torchrun`, Slurm or Lightning started for one run; see `check_ranks`."""
    return next((int(os.environ[name]) for name in NUMBERS if os.environ.get(name)), 0)


def check_ranks() -> None:
    """Raise SettingError where the environment numbers this process, and nobody started several.

    A variable that was left behind would make it a process that writes nothing and waits for others.
    """
    for name, beside in NUMBERS.items():
        value = os.environ.get(name)
        if value and not (value.isdecimal() and all(os.environ.get(other) for other in beside)):
            raise SettingError(
                f"{name}={value} is set in the environment, but nobody started several processes (that would set "
                f"{' and '.join(beside)}, too): unset {name}, or start them with torchrun or srun"
            )


def torchrun_processes() -> int | None:
    """How many processes torchrun started for this run; None where it started none."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def srun_tasks() -> int | None:
    """How many tasks the srun around this process started for this run; None where there are no several.

    A single task is a process like any other, which may start more on its machine.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    return tasks if tasks > 1 and torchrun_processes() is None else None


def started_processes() -> int:
    """How many processes torchrun or srun started for this run; 1 where neither did."""
    return torchrun_processes() or srun_tasks() or 1


def in_allocation() -> bool:
    """Whether Slurm gave this process a job, whoever started it."""
    return "SLURM_NTASKS" in os.environ and torchrun_processes() is None


def this_machine() -> str:
    """Its name as Slurm knows it, or as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def check_launch(processes: int, num_nodes: int = 1) -> None:
    """Compare what the trainer is set to with what was started.

    Args:
        processes: trainer.devices x trainer.num_nodes.
        num_nodes: trainer.num_nodes.

    Raises:
        ValueError: they differ: the processes would train one run each, or wait for some that never come.
    """
    by_torchrun, by_srun = torchrun_processes(), srun_tasks()
    if by_torchrun is not None:
        if by_torchrun != processes:
            raise ValueError(f"{_differs('torchrun', by_torchrun, processes)}: use trainer=torchrun, which counts them")
    elif by_srun is not None:
        if by_srun != processes:
            raise ValueError(
                f"{_differs('srun', by_srun, processes)}: use trainer=slurm, which counts --nodes x --ntasks-per-node, "
                f"and give srun itself no other numbers; for one process: {ONE_TASK}"
            )
    elif processes > 1 and _job_tasks() == processes and (num_nodes > 1 or not _is_interactive()):
        raise ValueError(
            f"Slurm gave this job {processes} tasks, but srun did not start this process, which would wait for the "
            f"others: write srun before the command"
        )
    elif num_nodes > 1 and "NODE_RANK" not in os.environ:  # with it, a person starts the command on every machine
        raise ValueError(f"trainer.num_nodes={num_nodes} takes torchrun or srun to start the processes of all machines")


def check_slurm() -> None:
    """Raise ValueError where srun was told how many tasks to start, but not how many on each machine."""
    if (tasks := srun_tasks()) is not None and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"srun started {tasks} tasks without a number for each node: give --ntasks-per-node; for one process: "
            f"{ONE_TASK}"
        )


def _differs(starter: str, started: int, processes: int) -> str:
    return (
        f"{starter} started {started} process{'es' * (started != 1)} for this run, but trainer.devices x "
        f"trainer.num_nodes is {processes}"
    )


def _job_tasks() -> int | None:
    return int(os.environ["SLURM_NTASKS"]) if in_allocation() else None


def _is_interactive() -> bool:
    return os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
