"""Search space of a sweep: its settings and the values of each. The strategy decides which run, and in which order.

An override's value is kept as the text Hydra reads ("[0.5,1,2]"), so that a job's command line is what a person
would type for it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType

from anchorlab.errors import SettingError

Point = tuple[str, ...]
"""One override for each axis, in their order."""


@dataclass(frozen=True)
class Axis:
    """A setting and its values: listed, or an interval of numbers (`values` is then empty).

    log: whether the interval is to be searched on a logarithmic scale; whole: whether in whole numbers.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def override(self, value: Any) -> str:
        return f"{self.key}={value}"

    def __str__(self) -> str:
        if self.values:
            return f"{self.key}={','.join(self.values)}"
        return f"{self.key} from {self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """Overrides that all jobs share, and the axes they differ by."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def is_finite(self) -> bool:
        return all(axis.values for axis in self.axes)

    @property
    def size(self) -> int:
        """How many points there are, duplicates included; 0 where there are endlessly many."""
        count = 1
        for axis in self.axes:
            count *= len(axis.values)
        return count

    def points(self) -> Iterator[Point]:
        """All combinations, the last axis fastest.

        Raises:
            SettingError: for an interval, which has no list of values.
        """
        for axis in self.axes:
            if not axis.values:
                raise SettingError(
                    f"{axis.key}=interval({axis.low:g},{axis.high:g}) has endlessly many values: search it with "
                    f"sweep=tpe or sweep=random, or list some"
                )
        return itertools.product(*([axis.override(value) for value in axis.values] for axis in self.axes))

    def overrides(self, point: Point) -> list[str]:
        """The job's command line at this point."""
        return [*self.fixed, *point]


def read_space(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """The space of the sweep's own `params`, with what was typed in their place or beside them.

    Args:
        params: setting -> a list of values, or text as one would type it (`"interval(0.1,1)"`), or one value.
        arguments: overrides of the command line. Those of `sweep` itself belong to no job and are left out.
    """
    parser = OverridesParser.create(config_loader=loader)
    own = parser.parse_overrides([_param_text(key, value) for key, value in params.items()])
    typed = parser.parse_overrides([argument for argument in arguments if not is_of_sweep(argument)])
    chosen = {override.get_key_element(): override for override in [*own, *typed]}
    fixed = tuple(str(o.input_line) for o in chosen.values() if not o.is_sweep_override())
    return Space(fixed, tuple(_axis(o) for o in chosen.values() if o.is_sweep_override()))


def is_of_sweep(override: str) -> bool:
    """Whether an override sets the sweep itself rather than its jobs."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "sweep" or key.startswith("sweep.")


def _param_text(key: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{key}=choice({','.join(_value_text(item) for item in value)})"
    return f"{key}={_value_text(value)}"


def _value_text(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    return value if isinstance(value, str) else Override._get_value_element_as_str(value)


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    if override.value_type != ValueType.INTERVAL_SWEEP:
        values = tuple(override.sweep_string_iterator())
        if not values:
            raise SettingError(f"{override.input_line} sweeps over nothing: give at least one value")
        return Axis(key, values)
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    assert interval.start is not None
    assert interval.end is not None
    if interval.start >= interval.end:
        raise SettingError(f"{override.input_line} is empty: its start must lie below its end")
    whole = isinstance(interval.start, int) and isinstance(interval.end, int)
    log = "log" in interval.tags
    if log and interval.start <= 0:
        raise SettingError(f"{override.input_line} cannot be logarithmic: its start must lie above 0")
    return Axis(key, (), float(interval.start), float(interval.end), log, whole)
