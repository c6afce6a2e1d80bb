"""User errors: exceptions that a person can fix, and the one place that turns them into a sentence and an exit code.

A class of this project that is such an error derives from `UserError` or `RunError`; any other exception is a mistake
of ours, and keeps its traceback.
"""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from anchorlab.printable import printable

USAGE_ERROR = 2
FAILED = 1
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the signal's number."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of an OSError: a full disk, a quota, a file larger than allowed."""
NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENXIO, errno.ENODEV),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE, errno.ENOTCONN),
)
"""Of an OSError: a path that is something else than what is needed, not allowed, or on a disk that does not answer."""


class UserError(ValueError):
    """Something that a person has to change before a command can work: exit code 2."""

    def appendix(self) -> str:
        """What stands behind the sentence on a line of its own; "" for nothing."""
        return ""


class SettingError(UserError):
    """A setting that a person has to change: one sentence with the key, the value and the fix."""


class DamagedFile(UserError):
    """A file of a run's folder that holds something else than a run writes: one sentence that names it."""


class RunError(RuntimeError):
    """What broke a command that had started in order: exit code 1."""


@contextmanager
def user_sentences(folder: Path | None = None, next_step: Callable[[], str] | None = None) -> Iterator[None]:
    """Leave with one sentence on standard error, and no traceback, where the block raises a person's error.

    Args:
        folder: named where there is no room for it; None: the file that could not be written.
        next_step: what to do then; None: make room and start again.
    """
    try:
        yield
    except UserError as error:
        exit_with(error)
    except (RunError, FloatingPointError) as error:
        exit_with(error, FAILED)
    except OSError as error:
        if error.errno in NO_PLACE and error.filename is not None:
            exit_with(f"{error.filename} cannot be read or written ({error.strerror}): name another place, or mend it")
        if error.errno not in NO_ROOM:
            raise
        place = folder or error.filename or "the output"
        then = "make room and start again" if next_step is None else next_step()
        exit_with(f"{place} cannot be written ({error.strerror}): {then}", FAILED)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        exit_with("there is not enough memory: lower data.batch_size, data.long, or the number of anchors", FAILED)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or OpenCV asked for more memory than there is; the latter two say so in words alone."""
    words = ("can't allocate memory", "out of memory", "insufficient memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def exit_with(error: Exception | str, code: int = USAGE_ERROR) -> NoReturn:
    """Print the sentence of an error and leave, by default with the code of a wrong command line."""
    print(printable(f"error: {error}"), file=sys.stderr)
    if isinstance(error, UserError) and (appendix := error.appendix()):
        print(printable(appendix), file=sys.stderr)
    raise SystemExit(code)
