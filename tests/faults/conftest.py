"""Settings as a command line gives them, checked in this process as far as anything can be before data is read."""

import re
from typing import Any

import pytest

from anchorlab.cli.choices import as_meant
from anchorlab.cli.overrides import check_overrides
from anchorlab.cli.quoting import quoted
from anchorlab.errors import SettingError
from anchorlab.installation import CONFIGS


def checked(*words: str, command: str = "train", own: str | None = None, classes: Any = "built") -> dict:
    """The config that these overrides of a command make."""
    overrides = [quoted(word, CONFIGS) for word in as_meant(words, command, CONFIGS)]
    return check_overrides(command, CONFIGS, overrides, own, classes)


def refused(words: str, *overrides: str, **more) -> None:
    """One sentence that holds these words."""
    with pytest.raises(SettingError, match=re.escape(words)) as error:
        checked(*overrides, **more)
    assert "\n" not in str(error.value)
