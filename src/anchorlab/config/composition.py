"""Composition: files, choices and overrides to one plain config, as Hydra composes it."""

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from anchorlab.config.settings import check, unknown_choice, unknown_key, with_texts
from anchorlab.errors import SettingError
from anchorlab.installation import program

# Hydra 1.3 warns where there is no version_base, and 1.4 where there is one.
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}

NO_GROUP = re.compile(r"Could not (?:override|delete) '([^']+)'\. No match in the defaults list")
"""How Hydra says that a command does not have a group."""


def with_values(config: DictConfig, overrides: Iterable[Override], known: Sequence[str] = ()) -> DictConfig:
    """A copy of a composed config with values (key=value, no group choices) put in, as Hydra puts them in.

    Raises:
        SettingError: a key that the config does not have.
    """
    changed = deepcopy(config)
    try:
        for override in overrides:
            OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException as error:
        raise SettingError(_reason(error, known)) from error
    return changed


@cache
def composed(config_name: str, config_dir: Path, overrides: tuple[str, ...], known: tuple[str, ...] = ()) -> DictConfig:
    """The composition by Hydra, kept as it takes half a second: jobs of a sweep with the same choices share one."""
    return _composed(config_name, config_dir, overrides, known)


@cache
def chosen(config_name: str, config_dir: Path, overrides: tuple[str, ...]) -> dict[str, str]:
    """By group, the choice that the defaults, the overrides and the files that these choose come to."""
    choices = _composed(config_name, config_dir, overrides, (), with_hydra=True).hydra.runtime.choices
    return {str(group): choice for group, choice in choices.items() if isinstance(choice, str)}


def _composed(
    config_name: str, config_dir: Path, overrides: Sequence[str], known: Sequence[str], with_hydra: bool = False
) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir), **VERSION_BASE):
            return compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)
    except MissingConfigException as error:
        raise SettingError(_missing_choice(str(error), error.missing_cfg_file, error.options)) from error
    except ConfigCompositionException as error:
        if elsewhere := NO_GROUP.match(str(error)):
            raise SettingError(
                f"{elsewhere[1]} is no group of this command: {program(config_name)} --help lists those that it has"
            ) from error
        raise SettingError(_reason(error, known)) from error
    # ValueError: of group=null, and of a file that is no text; YAMLError: of a file that is no YAML.
    except (HydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
        raise SettingError(_reason(error, known)) from error


def to_plain(
    config: DictConfig, known: Sequence[str] = (), complete: bool = True, resolve: bool | None = None
) -> dict[str, Any]:
    """Plain containers; `complete`: every setting has a value. `resolve`: references too, None: where complete."""
    try:
        plain = OmegaConf.to_container(
            config, resolve=complete if resolve is None else resolve, throw_on_missing=complete
        )
    except OmegaConfBaseException as error:
        raise SettingError(_reason(error, known)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def own_choices_of(hydra: Any) -> str | None:
    """The folder of choices that --config-dir added to a command, from its `hydra` config."""
    sources = hydra.runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)


def settings_of(config: DictConfig) -> dict[str, Any]:
    """What a command works with: its composed config as plain containers, resolved, texts as texts.

    Raises:
        SettingError: a setting without a value, or one that refers to another that does not exist.
    """
    return with_texts(to_plain(config))


def _missing_choice(message: str, wanted: str | Sequence[str] | None, options: Sequence[str] | None) -> str:
    if not isinstance(wanted, str) or not options:
        return message.splitlines()[0]
    group, _, choice = wanted.rpartition("/") if wanted.startswith("hydra/") else wanted.partition("/")
    return unknown_choice(group, choice, options)


def _reason(error: Exception, known: Sequence[str]) -> str:
    """OmegaConf's and Hydra's messages carry the reason first and the object's type after it."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    key = cause.full_key if isinstance(cause, OmegaConfBaseException) else None
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} has no value: give one, {key}=..."
    if "HydraConfig was not set" in str(error):
        return f"{key}: ${{hydra:...}} is known only when the command runs: write the value itself"
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and key:
        return unknown_key(key, known)
    lines = [text.strip().splitlines()[0] for text in (str(error), str(cause or "")) if text.strip()]
    return " ".join(dict.fromkeys(lines))


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
        self._is_group: dict[str, bool] = {}

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
        key = override.key_or_group
        if key not in self._is_group:  # Hydra reads its search path anew for each question
            self._is_group[key] = bool(self._loader.get_group_options(key))
        return not self._is_group[key]
