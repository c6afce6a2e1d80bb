"""Command-line overrides of the root scripts: refuses a wrong one in one sentence with exit code 2; imports no torch.

Hydra composes and runs; this module looks at the same overrides first, because Hydra's own messages suggest
adding a misspelt key with `+`, and then accept it.
"""

import datetime
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType
from hydra.errors import (
    HydraException,
    OverrideParseException,
)

from anchorlab.cli.choices import as_meant
from anchorlab.cli.help import usage
from anchorlab.cli.own_files import OwnFile, check_own_files, naming, naming_recipe, read_own_files, sets_others
from anchorlab.cli.quoting import in_quotes, quoted
from anchorlab.cli.sweep_arguments import check_sweep
from anchorlab.config.composition import chosen, composed, to_plain, with_values
from anchorlab.config.settings import (
    check,
    check_keys,
    check_kinds,
    check_signatures,
    leaf_keys,
    takes_more,
    unknown_key,
    with_texts,
)
from anchorlab.console import begin, in_sweep
from anchorlab.errors import SettingError, exit_with, user_sentences
from anchorlab.runs.files import make_folder, new_folder
from anchorlab.signatures import shown
from anchorlab.sweeps.check import check_signatures_apart
from anchorlab.sweeps.folder import claim, find
from anchorlab.training.processes import check_ranks, process_rank, started_processes

BUILT_IN = "SyntheticReader"
FOUND_DATA = "data=auto"
SIZES_OF_ANCHORS = ("anchor.sizes", "anchor.scale", "anchor.shapes")
"""Each says how large the anchors are, so that only one of them can be set."""


def check_command_line(
    config_name: str,
    config_dir: Path,
    own_folder: bool = True,
    short: Mapping[str, str] = MappingProxyType({}),
    about: str | None = None,
) -> None:
    """Exit with one sentence where the command line is wrong; else give the run a folder of its own.

    The folder is claimed here (and passed to Hydra as an override) so that two runs started within one second
    do not share one. A folder conf/ in the working folder adds its choices, unless --config-dir names another.

    Args:
        own_folder: False for a command that leaves no run behind; it does not sweep either.
        short: overrides that stand for others, such as `wandb=true` for `wandb.save=true`.
        about: the head of the help page; None: the docstring of the script that runs.
    """
    with user_sentences():
        words = [short.get(argument, argument) for argument in sys.argv[1:]]
        sys.argv[1:] = [quoted(word, config_dir) for word in as_meant(words, config_name, config_dir)]
    arguments = get_args_parser().parse_intermixed_args(sys.argv[1:])
    if arguments.config_name is not None:
        exit_with(f"--config-name={arguments.config_name} is not possible: a command's config has its own name")
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        exit_with(
            f"--config-dir={arguments.config_dir} is no folder: give the one that holds anchor/, experiment/, ..."
        )
    if arguments.cfg is not None and arguments.multirun:
        exit_with(f"--cfg {arguments.cfg} shows the settings of one run: leave -m out, and several values")
    # Hydra's parser takes options only before the overrides; people also write them behind.
    options = [argument for argument in sys.argv[1:] if argument not in arguments.overrides]
    if arguments.config_dir is None and (own := own_choices(config_dir)):
        arguments.config_dir = own
        options += ["--config-dir", own]
    sys.argv[1:] = [*options, *arguments.overrides]
    if arguments.help:
        about = about or sys.modules["__main__"].__doc__ or ""
        folders = [config_dir, *([Path(arguments.config_dir)] if arguments.config_dir else [])]
        print(usage(config_name, folders, about))
        raise SystemExit(0)
    if arguments.hydra_help or arguments.info or arguments.shell_completion:
        return
    if in_sweep():
        return  # the sweep has checked this very command, and gave it a folder
    with user_sentences():
        check_ranks()
        more = implied(config_name, config_dir, arguments.overrides, arguments.config_dir)
        sys.argv += more
        arguments.overrides += more
        if not arguments.multirun:
            _refuse_several_values(arguments.overrides)
        shows = arguments.cfg is not None
        if not shows and process_rank() == 0:
            begin(f"{config_name}: reading the settings")
        classes = "unseen" if shows else "apart" if arguments.multirun else "built"
        config = check_overrides(
            config_name, config_dir, arguments.overrides, arguments.config_dir, classes, complete=not shows
        )
        if "sweep" in config:
            check_sweep(config, arguments.overrides, arguments.multirun or arguments.cfg is not None)
        if arguments.multirun and not own_folder:
            raise SettingError(f"{config_name} does not sweep: leave -m out")
        if arguments.cfg is None and own_folder:
            _claim_folder(arguments.overrides, arguments.multirun, config)


def own_choices(config_dir: Path) -> str | None:
    """The folder conf/ in the working folder, where there is one and it is not AnchorLab's own."""
    folder = Path("conf").absolute()
    return str(folder) if folder.is_dir() and not folder.samefile(config_dir) else None


def implied(config_name: str, config_dir: Path, overrides: Sequence[str], more_configs: str | None) -> list[str]:
    """Overrides that go without saying beside those that are typed.

    A folder of data whose format nothing says is `data=auto`. Where the size of the anchors is typed in one way,
    what the choice of anchors says in another way is null: `anchor.scale=null` beside `anchor.sizes=[32,64]`.
    """
    parsed = _parse(overrides)
    typed = {override.key_or_group: override.value() for override in parsed}
    choices = [_sweep_values(override, config_dir) for override in parsed if _is_choice(override, [config_dir])]
    first = [values[0] for values in choices]
    path = (_search_path(more_configs),) if more_configs else ()

    def settings(choices: Sequence[Override], more: Sequence[str] = ()) -> dict[str, Any]:
        """What these choices set, before anything else that is typed."""
        _own_files(choices, more_configs)
        return to_plain(composed(config_name, config_dir, (*path, *map(_text, choices), *more)), complete=False)

    found: list[str] = []
    reads_data = "data.root" in typed and "data" not in typed and (config_dir / "data").is_dir()
    if reads_data and _has_to_be_read(settings(first), typed):
        found.append(FOUND_DATA)
    if all(typed.get(key) is None for key in SIZES_OF_ANCHORS):
        return found
    others = [override for override in first if override.key_or_group != "anchor"]
    of_anchors = [values for values in choices if values[0].key_or_group == "anchor"]
    nulls: set[str] = set()
    for chosen_anchors in product(*of_anchors):
        anchor = settings([*others, *chosen_anchors], found).get("anchor") or {}
        nulls |= {key for key in SIZES_OF_ANCHORS if anchor.get(key.partition(".")[2]) is not None and key not in typed}
    return found + [f"{key}=null" for key in SIZES_OF_ANCHORS if key in nulls]


def _has_to_be_read(settings: Mapping[str, Any], typed: Iterable[str]) -> bool:
    """Whether nothing says what is in the folder of data, so that it has to be found out.

    An experiment that chooses a format has said it, and so has a setting that the built-in data alone has
    (`data.reader.num_train`): its images are then drawn into that folder.
    """
    reader = (settings.get("data") or {}).get("reader", {})
    built_in = str(reader.get("_target_", BUILT_IN)).endswith(BUILT_IN)
    return built_in and not any(key.startswith("data.reader.") and key.split(".")[2] in reader for key in typed)


def check_overrides(
    config_name: str,
    config_dir: Path,
    overrides: Sequence[str],
    more_configs: str | None = None,
    classes: Literal["here", "built", "apart", "unseen"] = "here",
    complete: bool = True,
) -> dict[str, Any]:
    """The plain config that `overrides` compose to; of a sweep, the one with every first value.

    Each value of a sweep is checked too, beside the first values of the others: jobs must not fail one by one
    for a word that was wrong at the start.

    Args:
        more_configs: a further folder of groups.
        classes: how their signatures are looked at, which imports torch: here; here, and built to see whether two
            settings are at odds; in a process apart, for a sweep, which stays small; or not at all.
        complete: refuse a setting that has no value; `--cfg job` shows it as `???`.

    Raises:
        SettingError: an override that cannot be read, a key or a choice that does not exist, a wrong value.
    """
    parsed = _parse(overrides)
    values = [_sweep_values(override, config_dir) for override in parsed]
    jobs = [[options[0] for options in values]]
    for at, options in enumerate(values):
        jobs += [[option if i == at else others[0] for i, others in enumerate(values)] for option in options[1:]]
    every = [option for options in values for option in options]
    files, typed = _own_files(every, more_configs), [override.key_or_group for override in parsed]
    with naming(files, typed), naming_recipe([*files, *_files(every, config_dir)], typed):
        configs = [_check_composed(config_name, config_dir, job, more_configs, complete) for job in jobs]
        if classes == "apart":
            check_signatures_apart(configs)
        elif classes != "unseen":
            for config in configs:
                check_signatures(config)
        if classes == "built":
            from anchorlab.build import check_buildable

            check_buildable(configs[0])
    return configs[0]


def _check_composed(
    config_name: str, config_dir: Path, overrides: Sequence[Override], more_configs: str | None, complete: bool
) -> dict[str, Any]:
    """Compose with the choices of files alone, whose keys are all there are; the values are put in afterwards."""
    ours = [override for override in overrides if not override.is_hydra_override()]
    roots = [config_dir, *([Path(more_configs).absolute()] if more_configs else [])]
    choices = [override for override in ours if _is_choice(override, roots)]
    path = [_search_path(more_configs)] if more_configs else []
    files = _own_files(choices, more_configs)
    base = composed(config_name, config_dir, (*path, *map(_text, choices)))
    reference = to_plain(base, complete=False)
    known = leaf_keys(reference)
    groups = [folder.name for folder in config_dir.iterdir() if folder.is_dir()]

    def without(left_out: Iterable[OwnFile]) -> dict[str, Any]:
        """The config of the same choices but for the groups of these files."""
        apart = {file.group for file in left_out}
        final = chosen(config_name, config_dir, (*path, *map(_text, choices)))
        others = [f"{group}={choice}" for group, choice in final.items() if group in groups and group not in apart]
        return to_plain(composed(config_name, config_dir, (*path, *others)), complete=False)

    values = [override for override in ours if override not in choices]
    if any(override.type == OverrideType.DEL for override in values):
        recipes = [file for file in [*files, *_files(choices, config_dir)] if file.is_global]
        _check_taken_away(values, known, leaf_keys(without(recipes)))
    if apart := [file for file in files if sets_others(file, config_dir)]:
        reference = without(apart)
        check_own_files(apart, reference)
    keys = [override.key_or_group for override in values]
    named = [key.removesuffix("._target_") for key in keys if key.endswith("._target_")]
    for override in values:
        part = next((node for node in named if override.key_or_group.startswith(node + ".")), None)
        if part is None:
            _check_key(override, known, groups)
        elif part not in reference and takes_more(reference, part.rpartition(".")[0]) and not override.is_add():
            raise SettingError(f"{override.input_line} adds to {part.rpartition('.')[0]}: write +{override.input_line}")
    if all(override.type == OverrideType.CHANGE for override in values):
        config = to_plain(with_values(base, values, known), known, complete, resolve=True)
    else:
        whole = composed(config_name, config_dir, (*path, *map(_text, ours)), tuple(known))
        config = to_plain(whole, known, complete, resolve=True)
    for group in groups:
        if group in config:
            _check_group(group, config[group], config_dir)
    check_keys(config, reference)
    check_kinds(config, reference)
    check(config)
    return with_texts(config)


def _own_files(overrides: Iterable[Override], folder: str | None) -> list[OwnFile]:
    """The files in a person's own `folder` of choices that are chosen, and those that these choose."""
    return [] if folder is None else _files(overrides, Path(folder).absolute())


def _files(overrides: Iterable[Override], folder: Path) -> list[OwnFile]:
    values = [(override.key_or_group, override.value()) for override in overrides]
    names = [(group, name) for group, value in values for name in (value if isinstance(value, list) else [value])]
    return read_own_files(folder, [(group, name) for group, name in names if isinstance(name, str)])


def _check_group(name: str, group: Any, config_dir: Path) -> None:
    """Refuse a group without settings, or without a class where the choices of it name one."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((config_dir / name).glob("*.yaml"))]
    examples = ", ".join(path.stem for path in sorted((config_dir / name).glob("*.yaml")))
    if not isinstance(group, dict):
        raise SettingError(f"{name}={shown(group)} is not possible: choose one of {examples}")
    several = all(isinstance(part, dict) and "_target_" in part for part in group.values())  # as loggers are
    if "_target_" not in group and not several and any(re.search(r"^_target_:", text, re.MULTILINE) for text in texts):
        raise SettingError(f"{name} names no class (_target_): begin the file with `defaults: [<one of {examples}>]`")


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides=list(overrides))
    except (OverrideParseException, HydraException) as error:
        raise SettingError(_unreadable(overrides)) from error


def _unreadable(overrides: Sequence[str]) -> str:
    """Name the override that cannot be read; a list torn apart by the shell is put together again."""
    parser = OverridesParser.create()
    for at, override in enumerate(overrides):
        try:
            parser.parse_override(override)
        except HydraException:
            end = at + 1
            while end < len(overrides) and "".join(overrides[at:end]).count("[") > "".join(overrides[at:end]).count(
                "]"
            ):
                end += 1
            if end > at + 1:
                whole = "".join(overrides[at:end])
                return f"{' '.join(overrides[at:end])} has spaces: write it without, quoted for the shell: '{whole}'"
            return f"{override} cannot be read: overrides are written key=value, lists as '[1,2]'"
    return f"{' '.join(overrides)} cannot be read: overrides are written key=value"


def _sweep_values(override: Override, config_dir: Path) -> list[Override]:
    """The override for each value of a sweep, in order; itself where it sweeps over none that can be listed."""
    pattern = override.value()
    if isinstance(pattern, IntervalSweep):
        values = [pattern.start, pattern.end]
        return OverridesParser.create().parse_overrides([f"{override.get_key_element()}={value}" for value in values])
    if not override.is_discrete_sweep():
        return [override]
    if isinstance(pattern, Glob):
        values = pattern.filter(sorted(path.stem for path in (config_dir / override.key_or_group).glob("*.yaml")))
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise SettingError(f"{override.input_line} sweeps over nothing: give at least one value")
    return OverridesParser.create().parse_overrides([f"{override.get_key_element()}={value}" for value in values])


def _is_choice(override: Override, roots: Sequence[Path]) -> bool:
    """Whether an override picks a file of a config group rather than setting a value."""
    group = override.key_or_group
    return not isinstance(override.value(), dict) and any((root / group).is_dir() for root in roots)


def _search_path(folder: str) -> str:
    return f"hydra.searchpath=[{in_quotes(f'file://{Path(folder).absolute()}')}]"


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _refuse_several_values(overrides: Sequence[str]) -> None:
    """Refuse a sweep over values without -m."""
    for override in _parse(overrides):
        if override.is_sweep_override():
            line = override.input_line
            raise SettingError(f"{line} has several values: add -m to train one run for each, or write a list, [1,2]")


def _check_taken_away(overrides: Iterable[Override], known: Iterable[str], without_recipes: Iterable[str]) -> None:
    """Refuse `~key`, but for what a recipe alone brings in: a setting of a part that the command replaces."""
    brought_in = set(known) - set(without_recipes)
    for override in overrides:
        if override.type == OverrideType.DEL and override.key_or_group in set(known) - brought_in:
            line = override.input_line
            raise SettingError(f"{line} takes a setting away: set it to null instead, where it may be null")


def _check_key(override: Override, known: list[str], groups: list[str]) -> None:
    key = override.key_or_group
    if key not in known and not any(k.startswith(key + ".") or key.startswith(k + ".") for k in known):
        raise SettingError(unknown_key(key, known if "." in key else [*groups, *known]))


def _claim_folder(overrides: Sequence[str], multirun: bool, config: dict[str, Any]) -> None:
    """Settle where this run goes, and with `resume=auto` which one it goes on with, in words Hydra understands."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    given = next((override for override in overrides if override.lstrip("+").startswith(key + "=")), None)
    if config.get("resume") == "auto" and not multirun:  # each job of a sweep looks into its own folder
        config = {**config, "resume": _unfinished(config, given)}
        sys.argv[1:] = [argument for argument in sys.argv[1:] if argument.partition("=")[0].lstrip("+") != "resume"]
        if config["resume"]:
            sys.argv.append(f"resume={in_quotes(str(config['resume']))}")
    if given is not None:
        if process_rank() == 0 and not config.get("sweep", {}).get("dry_run", False):
            make_folder(_folder_in(given), key)
        return
    if multirun and "sweep" in config:
        sweep = config["sweep"]
        folder = find(overrides) if sweep["dry_run"] else claim(overrides, sweep["again"])
    elif config.get("resume"):
        from anchorlab.training.resume import run_folder

        folder = run_folder(config["resume"])
    elif "resume" in config and process_rank() > 0:
        folder = Path()  # the first process has the run's folder; this one writes nothing
    else:
        now = datetime.datetime.now()
        folder = new_folder(Path("outputs") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}")
    if folder is not None:
        sys.argv.append(f"{key}={in_quotes(str(folder))}")


def _folder_in(override: str) -> Path:
    """The folder that an override names."""
    return Path(str(_parse([override])[0].value()))


def _unfinished(config: dict[str, Any], given: str | None) -> Path | None:
    """The newest run of this command that can go on: in the folder that was given, else below outputs/.

    The first process looks for all: a moment later, another would find a run that the first has locked, or none.
    """
    from anchorlab.training.resume import finished_by_this_job, is_finished, latest_unfinished

    if given is None:
        folders = [path.parent for path in Path("outputs").glob("*/*/run.json")]
        done = finished_by_this_job(folders, config)
    else:
        folders = [_folder_in(given)]
        done = folders[0] if is_finished(folders[0], config) else None
    if done is not None:
        if process_rank() == 0:
            print(f"{done} holds the finished run of this command: nothing to do")
        raise SystemExit(0)

    def newest() -> str | None:
        run = latest_unfinished(folders, config)
        return None if run is None else str(run.folder)

    if started_processes() == 1:
        folder = newest()
    else:
        from anchorlab.training.peers import peers

        with user_sentences():
            others = peers()
            assert others is not None
            folder = others.as_the_first("resume", newest, config["trainer"]["timeout"])
    return None if folder is None else Path(folder)
