"""Hydra sweeper plugin that hands every multirun to AnchorLab's sweeps; Hydra imports it at every start.

`python train.py -m ...` calls `sweep` with what was typed; the launcher is whichever was chosen.
"""

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="anchorlab",
    node={"_target_": "hydra_plugins.anchorlab_sweeper.AnchorLabSweeper"},
    provider="anchorlab",
)


class AnchorLabSweeper(Sweeper):
    """Runs the config's `sweep` group; see `anchorlab.sweeps.sweep`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self._settings = config
        self._loader = hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from anchorlab.sweeps.sweep import run_sweep

        run_sweep(self._settings, self._loader, self._launcher, arguments)
