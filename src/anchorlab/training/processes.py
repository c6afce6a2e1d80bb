"""Process layout of a distributed run: its ranks, its launcher, and whether the settings agree; imports no torch.

Where neither torchrun nor Slurm did, Lightning starts the other processes of a machine itself.
"""

import os

INTERACTIVE = ("bash", "interactive")  # names of Slurm jobs in which people type; Lightning knows them as such


def process_rank() -> int:
    """This process's number among those that `torchrun`, Slurm or Lightning started for one run."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # the first that is set, as Lightning reads them
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), 0)


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
                + (", and start it with srun" if starter == "Slurm" else "")
            )


def check_slurm() -> None:
    """Raise ValueError where Slurm was told how many tasks to start, but not where."""
    if (_by_slurm() or 1) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"Slurm started {_by_slurm()} tasks without a number for each node: give sbatch --ntasks-per-node"
        )


def _by_torchrun() -> int | None:
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def _by_slurm() -> int | None:
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    return None if "TORCHELASTIC_RUN_ID" in os.environ else int(os.environ["SLURM_NTASKS"])
