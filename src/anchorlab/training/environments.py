"""Lightning's view of who started the processes: srun, Lightning itself, or what Lightning finds out alone (torchrun).

Lightning's own guess goes by a job's variables: it takes the shell of an allocation for one of several tasks, and waits
for the others; and the tasks of an srun in an interactive job for single processes.
"""

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from anchorlab.training.processes import in_allocation, srun_tasks


class SrunEnvironment(SLURMEnvironment):
    """The tasks that srun started, in batch jobs and in interactive ones. Requeues nothing: the job's script does."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """Known already; Lightning warns in interactive jobs."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """`processes.check_slurm` does it, in a sentence."""


def environment() -> ClusterEnvironment | None:
    """None: Lightning finds it out, with the same result."""
    if srun_tasks() is not None:
        return SrunEnvironment()
    return LightningEnvironment() if in_allocation() else None
