"""JSON values of what runs and pages hold: numpy's become Python's; writes no file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any, digits: int | None = None) -> Any:
    """What JSON can hold: arrays as lists, NaN and infinity as null, paths and whatever else as text.

    Args:
        digits: significant digits of floats; None: all.
    """
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), digits)
    if isinstance(value, Mapping):
        return {str(key): plain(child, digits) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child, digits) for child in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
