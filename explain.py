"""One image's way through a trained network, in pictures and numbers: python explain.py run=<run> image=<file>."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="explain")
def main(config: DictConfig) -> None:
    from anchorlab.commands.explain import run_from_command_line  # torch: not for --help or a wrong key

    run_from_command_line(config)


if __name__ == "__main__":
    check_command_line("explain", CONFIGS, own_folder=False)
    main()
