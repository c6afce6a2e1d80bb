"""Arguments that the study command adds to Hydra's: `fit=true`, `probe=true`, and several values of a setting at once;
imports no torch.
"""

import itertools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from anchorlab.cli.quoting import in_quotes
from anchorlab.errors import SettingError
from anchorlab.installation import program

SEVERAL_KS = re.compile(r"anchor\.k=(\d+(?:,\d+)+)")
EXAMPLE = "probe=true anchor.scale=2,4,8 'anchor.ratios=[1],[0.5,1,2]'"


def unfold(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: `fit=true` chooses anchor=fit, `anchor.k=3,6,9` becomes `ks=[3,6,9]`; with
    `probe=true` all combinations of several values become `candidates=[[...],...]`.

    Raises SettingError for a sweep (-m), for several k that are not fitted, for a fit of other anchors, and for a probe
    of fewer than two configurations.
    """
    probes = any(argument.lower() == "probe=true" for argument in arguments)
    if {"-m", "--multirun"} & set(arguments):
        example = EXAMPLE if probes else "fit=true anchor.k=3,6,9"
        raise SettingError(f"study takes several values without -m: {program('study')} {example}")
    if probes and any(argument.startswith("candidates=") for argument in arguments):
        return [*arguments]
    if probes:
        return _with_candidates(arguments)
    fits = "anchor=fit" in arguments or any(argument.lower() == "fit=true" for argument in arguments)
    chosen = [argument for argument in arguments if argument.startswith("anchor=")]
    if fits and any(choice != "anchor=fit" for choice in chosen):
        raise SettingError(f"fit=true finds anchors of its own: leave out {chosen[0]}")
    several = {argument: SEVERAL_KS.fullmatch(argument) for argument in arguments}
    if any(several.values()) and not fits:
        given = next(argument for argument, match in several.items() if match)
        raise SettingError(f"{given} studies several k: add fit=true to fit anchors for each, or give one")
    unfolded = [f"ks=[{match[1]}]" if (match := several[argument]) else argument for argument in arguments]
    return [*unfolded, "anchor=fit"] if fits and not chosen else unfolded


def _with_candidates(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that give an anchor setting several values, and all combinations of these."""
    several: dict[str, list[str]] = {}
    if any(argument.lower() == "fit=true" for argument in arguments):
        raise SettingError("fit=true beside probe=true: leave it out; anchor=fit,default probes fitted anchors, too")
    for argument in arguments:
        override = _parsed(argument) if argument.startswith("anchor") else None
        if override is not None and override.is_choice_sweep():
            key = override.get_key_element()
            several[argument] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    combinations = list(itertools.product(*several.values()))
    if len(combinations) < 2:
        raise SettingError(f"probe=true compares anchors: give a setting several values, {program('study')} {EXAMPLE}")
    written = ",".join(f"[{','.join(map(in_quotes, combination))}]" for combination in combinations)
    return [*(argument for argument in arguments if argument not in several), f"candidates=[{written}]"]


def _parsed(argument: str) -> Override | None:
    """None for what is no override: the check of the whole command line says so."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
