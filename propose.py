"""Proposals for images: python propose.py run=<folder or checkpoint> source=<image, folder, glob, list, COCO JSON>."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="propose")
def main(config: DictConfig) -> None:
    from anchorlab.commands.propose import run_from_command_line  # torch: not for --help or a wrong key

    run_from_command_line(config)


if __name__ == "__main__":
    check_command_line("propose", CONFIGS, own_folder=False)
    main()
