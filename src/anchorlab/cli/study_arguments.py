"""Arguments that the study command adds to Hydra's: `fit=true`, and several values of k at once; imports no torch."""

import re
from collections.abc import Sequence

from anchorlab.errors import SettingError
from anchorlab.installation import program

SEVERAL_KS = re.compile(r"anchor\.k=(\d+(?:,\d+)+)")


def unfold(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: `fit=true` chooses anchor=fit, `anchor.k=3,6,9` becomes `ks=[3,6,9]`.

    Raises SettingError for a sweep (-m), for several k that are not fitted, and for a fit of other anchors.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise SettingError(f"study takes several k without -m: {program('study')} fit=true anchor.k=3,6,9")
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
