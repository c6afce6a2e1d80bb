"""Hand a trained network over: python export.py run=<folder or checkpoint>; safetensors, torch.export, ONNX, a card."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line

CONFIGS = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="export")
def main(config: DictConfig) -> None:
    from anchorlab.commands.export import run_from_command_line  # torch: not for --help or a wrong key

    run_from_command_line(config)


if __name__ == "__main__":
    check_command_line("export", CONFIGS, own_folder=False)
    main()
