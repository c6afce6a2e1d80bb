"""The settings of a sweep's jobs, looked at before any of them runs, in a process apart: the sweep stays small."""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from anchorlab.config.settings import check_signatures
from anchorlab.errors import SettingError
from anchorlab.sweeps.forker import ask


def check_signatures_apart(configs: Sequence[Mapping[str, Any]]) -> None:
    """`check_signatures` of all `configs`, without importing their classes, and with most of them torch, here.

    Raises:
        SettingError: the first value that is wrong.
    """
    if sentence := ask("anchorlab.sweeps.check", configs, configs[0]):
        raise SettingError(sentence)


def main() -> None:
    """Of that process: JSON list of configs on standard input -> the sentence for the first wrong value, or null."""
    sentence = None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for config in json.load(sys.stdin):
                check_signatures(config)
        except SettingError as error:
            sentence = str(error)
    print(json.dumps(sentence))
