"""Process layout of a distributed run: its ranks, its launcher, and whether the settings agree; imports no torch.

Where neither torchrun nor Slurm did, Lightning starts the other processes of a machine itself.
"""

import os

from anchorlab.errors import SettingError

INTERACTIVE = ("bash", "interactive")  # names of Slurm jobs in which people type; Lightning knows them as such
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


def check_launch(processes: int) -> None:
    """Compare what the trainer is set to with what was started.

    Args:
        processes: trainer.devices x trainer.num_nodes.

    Raises:
        ValueError: they differ: the processes would train one run each, or wait for some that never come.
    """
    for starter, started in (("torchrun", _by_torchrun()), ("Slurm", _by_slurm())):
        if started is not None and started != processes:
            raise ValueError(
                f"{starter} started {started} process{'es' * (started != 1)} for this run, but trainer.devices x "
                f"trainer.num_nodes is {processes}: use trainer={starter.lower()}, which takes over {starter}'s numbers"
                + (f", and start it with srun; for one process: {ONE_TASK}" if starter == "Slurm" else "")
            )


def check_slurm() -> None:
    """Raise ValueError where Slurm was told how many tasks to start, but not where."""
    if (_by_slurm() or 1) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"Slurm started {_by_slurm()} tasks without a number for each node: give sbatch --ntasks-per-node; for one "
            f"process: {ONE_TASK}"
        )


def _by_torchrun() -> int | None:
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def _by_slurm() -> int | None:
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    return None if "TORCHELASTIC_RUN_ID" in os.environ else int(os.environ["SLURM_NTASKS"])
