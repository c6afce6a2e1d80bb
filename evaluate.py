"""Score trained networks: python evaluate.py run=<folder or checkpoint> [data=... data.root=...] [split=test]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line

CONFIGS = Path(__file__).resolve().parent / "conf"
SPLITS = {f"split={split}": f"eval.split={split}" for split in ("train", "val", "test")}


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def main(config: DictConfig) -> None:
    from anchorlab.commands.evaluate import run_from_command_line  # torch: not for --help or a wrong key

    run_from_command_line(config)


if __name__ == "__main__":
    check_command_line("evaluate", CONFIGS, short=SPLITS)
    main()
