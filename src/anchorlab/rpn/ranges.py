"""The sentence for a setting out of its range; which range that is, its class says."""


def check_range(key: str, value: float, holds: bool, wanted: str) -> None:
    """Raise ValueError unless the setting holds; `key` as in a config: "assigner.border"."""
    if not holds:
        raise ValueError(f"{key}={value} is out of range: it must be {wanted}.")
