"""Hydra's `instantiate` as this project calls it, under Hydra 1.3 and 1.4.

Hydra 1.4 asks the caller which classes a config may name. Here any: a class of one's own named by `_target_` is how
AnchorLab is extended, and a config is as trusted as the code beside it.
"""

from collections.abc import Mapping
from typing import Any

from hydra import utils

ANY_CLASS_ALLOWED = getattr(utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)
"""None before Hydra 1.4."""


def instantiate(config: Mapping[str, Any], **arguments: Any) -> Any:
    """The object that `config` names, all its containers plain.

    Raises:
        hydra.errors.InstantiationException: what its constructor, or the import of its module, raised.
    """
    allowed = {} if ANY_CLASS_ALLOWED is None else {"_execution_whitelist_": ANY_CLASS_ALLOWED}
    return utils.instantiate(config, **arguments, **allowed, _convert_="all")
