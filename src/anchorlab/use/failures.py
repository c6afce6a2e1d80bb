"""What a person reads when a command of this folder cannot go on: one sentence, no traceback; the codes of train.py."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from anchorlab.command import exit_with
from anchorlab.data.loader import LostWorkerError
from anchorlab.data.sample import DataError
from anchorlab.runs.files import NO_ROOM
from anchorlab.settings import SettingError

FAILED = 1


@contextmanager
def user_sentences() -> Iterator[None]:
    """Exit with 2 for settings and data that a person has to change, with 1 for what broke on the way."""
    try:
        yield
    except (SettingError, DataError) as error:
        exit_with(error)
    except (FloatingPointError, LostWorkerError) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _fail(f"{error.filename or 'the output'} cannot be written ({error.strerror}): make room and start again")


def _fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(FAILED)
