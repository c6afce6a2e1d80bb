"""Compare runs: python compare.py runs=<folder> [baseline=<run or filter>]; --cfg job shows all settings."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="compare")
def main(config: DictConfig) -> None:
    from anchorlab.commands.compare import compare_from_command_line  # numpy, scipy, rich: not for --help

    compare_from_command_line(config, CONFIGS)


if __name__ == "__main__":
    check_command_line("compare", CONFIGS, own_folder=False, short={"wandb=true": "wandb.save=true"})
    main()
