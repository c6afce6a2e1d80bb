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
USUAL = (
    ("anchor=default",),
    ("anchor=default", "anchor.ratios=[1]"),
    ("anchor=fit", "anchor.k=1"),
    ("anchor=fit", "anchor.k=3"),
)
"""What a probe compares where nobody says what."""


def unfold(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: `fit=true` chooses anchor=fit, `anchor.k=3,6,9` becomes `ks=[3,6,9]`; with
    `probe=true` all combinations of several values become `candidates=[[...],...]`, and without any the anchors that
    are given are one candidate beside the `USUAL` ones.

    Raises SettingError for a sweep (-m), for several k that are not fitted, for a fit of other anchors, and for a probe
    of one configuration.
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
    """The arguments without the anchors that are compared, and these as a list."""
    if any(argument.lower() == "fit=true" for argument in arguments):
        raise SettingError("fit=true beside probe=true: leave it out; anchor=fit,default probes fitted anchors, too")
    of_anchors = {argument: override for argument in arguments if (override := _of_anchors(argument))}
    several = {
        argument: [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        for argument, override in of_anchors.items()
        if override.is_choice_sweep()
    }
    compared = several or of_anchors
    candidates = list(itertools.product(*several.values())) if several else [tuple(of_anchors) or USUAL[0], *USUAL]
    if len(candidates) < 2:
        raise SettingError(f"probe=true compares anchors: give a setting several values, {program('study')} {EXAMPLE}")
    listed = [f"[{','.join(map(in_quotes, candidate))}]" for candidate in dict.fromkeys(candidates)]
    kept = [argument for argument in arguments if argument not in compared]
    return [*kept, f"candidates=[{','.join(listed)}]"]


def _of_anchors(argument: str) -> Override | None:
    """An override of the group `anchor`; None for what is none: the check of the whole command line says so."""
    if argument.partition("=")[0].partition(".")[0] != "anchor":
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
