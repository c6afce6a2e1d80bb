"""Which anchors fit the data, before training: python study.py data=... [anchor=...], or fit=true anchor.k=3,6,9."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line
from anchorlab.cli.study_arguments import unfold
from anchorlab.errors import user_sentences

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="study")
def main(config: DictConfig) -> None:
    from anchorlab.commands.study import run_from_command_line  # torch: not for --help or a wrong key

    run_from_command_line(config)


if __name__ == "__main__":
    with user_sentences():
        sys.argv[1:] = unfold(sys.argv[1:])
    check_command_line("study", CONFIGS)
    main()
