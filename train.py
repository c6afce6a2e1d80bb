"""Train one RPN: python train.py [group=choice] [group.key=value]; -m sweeps; --cfg job shows all settings."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line
from anchorlab.sweeps.jobs import run_job

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_job(config, CONFIGS.with_name("train.py"))
    else:
        from anchorlab.commands.train import run_from_command_line

        run_from_command_line(config)


if __name__ == "__main__":
    check_command_line("train", CONFIGS)
    main()
