"""Settings from Python: the overrides of a command line to a plain config, checked as the command line checks it."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from anchorlab.cli.choices import as_meant
from anchorlab.cli.overrides import check_overrides, implied, own_choices
from anchorlab.cli.quoting import quoted
from anchorlab.errors import SettingError
from anchorlab.installation import CONFIGS


def compose(*overrides: str, command: str = "train", config_dir: str | Path | None = None) -> dict[str, Any]:
    """The config that `anchorlab train <overrides>` runs with: plain dicts, lists and numbers, everything resolved.

    Args:
        overrides: as on the command line, `"anchor.ratios=[0.5,1,2]"`, without the shell's quotes.
        command: whose config: train, study, evaluate, ...
        config_dir: a folder of further choices; None: conf/ in the working folder, where there is one.

    Raises:
        SettingError: a key or choice that does not exist, or a value that is not possible.
    """
    words = [quoted(override, CONFIGS) for override in as_meant(overrides, command, CONFIGS)]
    more = own_choices(CONFIGS) if config_dir is None else str(config_dir)
    words += implied(command, CONFIGS, words, more)
    config = check_overrides(command, CONFIGS, words, more)
    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override():
            raise SettingError(f"{override.input_line} has several values: call once for each, or sweep with anchorlab")
        if override.is_hydra_override():
            raise SettingError(f"{override.input_line} is for the command line: leave it out, and give folder=")
    return config
