"""From a job's overrides to its config, many times over: files are read once for each set of group choices."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from anchorlab.command import with_values
from anchorlab.errors import SettingError
from anchorlab.settings import check


class Composer:
    """Job overrides -> plain config, checked, as `python train.py <overrides>` would get it.

    Hydra needs half a second for a composition; settings that choose no file are put into a copy of one instead.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader) -> None:
        self._name = str(config.hydra.job.config_name)
        self._hydra = [str(override) for override in config.hydra.overrides.hydra]
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config without its `hydra` part.

        Raises:
            SettingError: overrides that cannot be composed, or a value that is not possible.
        """
        parsed = self._parser.parse_overrides(list(overrides))
        values = [override for override in parsed if self._is_value(override)]
        groups = tuple(str(override.input_line) for override in parsed if override not in values)
        try:
            config = with_values(self._base(groups), values)
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except (HydraException, OmegaConfBaseException) as error:
            cause = error.__cause__ or error
            raise SettingError(str(cause).strip().splitlines()[0]) from error
        assert isinstance(plain, dict)
        settings = {str(key): value for key, value in plain.items()}
        check(settings)
        return settings

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._bases:
            config = self._loader.load_configuration(self._name, [*self._hydra, *groups], RunMode.RUN)
            with open_dict(config):
                del config["hydra"]
            self._bases[groups] = config
        return self._bases[groups]

    def _is_value(self, override: Override) -> bool:
        if override.type != OverrideType.CHANGE or isinstance(override.value(), dict):
            return False
        return not self._loader.get_group_options(override.key_or_group)
