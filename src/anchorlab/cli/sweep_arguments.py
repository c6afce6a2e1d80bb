"""Check of the optional packages that a sweep needs, before any job starts; installs nothing."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from anchorlab.config.settings import unknown_choice
from anchorlab.errors import SettingError
from anchorlab.installation import program

# Hydra launcher -> the module that brings it, and the extra of ours that installs it. Our own files: conf/hydra.
# Of others (ray), Hydra knows the choice where their package is installed.
OURS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
}


def check_sweep(config: Mapping[str, Any], overrides: Sequence[str], multirun: bool) -> None:
    """Refuse a sweep that cannot start.

    Raises:
        SettingError: a package that is missing, an unknown launcher, or a sweep without -m.
    """
    given = [override.lstrip("+") for override in overrides]
    if not multirun:
        chosen = next((override for override in given if override.startswith(("sweep=", "sweep."))), None)
        if chosen is not None:
            raise SettingError(f"{chosen} needs -m: {program('train')} -m {chosen} ...")
        return
    if str(config["sweep"].get("_target_")).endswith(".Search") and find_spec("optuna") is None:
        raise SettingError(
            "this sweep searches through Optuna, which is not installed: pip install 'anchorlab[optuna]'"
        )
    for override in given:
        key, _, launcher = override.partition("=")
        if key == "hydra/launcher":
            _check_launcher(launcher)


def _check_launcher(name: str) -> None:
    if name not in OURS:
        found = _known_to_hydra()
        if name not in found:
            raise SettingError(
                f"{unknown_choice('hydra/launcher', name, sorted({*found, *OURS}))}; another launcher's package "
                f"has to be installed first: pip install hydra-ray-launcher, for example"
            )
        return
    module, extra = OURS[name]
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise SettingError(f"hydra/launcher={name} needs a package: pip install 'anchorlab[{extra}]'")


def _known_to_hydra() -> list[str]:
    """The choices of the group that Hydra and its installed plugins have."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # its first use imports the plugins, which register their choices
    return [file.removesuffix(".yaml") for file in ConfigStore.instance().list("hydra/launcher")]
