"""A pseudo-terminal of a given width, and what a command leaves on it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


def on_terminal(command: Sequence[str], columns: int, cwd: Path, **environment: str) -> tuple[int, str]:
    """Exit code, and all that was written, as a terminal of so many columns is sent it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=kept | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return process.wait(), written.decode(errors="replace")


def lines(written: str) -> list[str]:
    """The lines that stay: of one that was written again and again, as bars are, the last state; no colours."""
    plain = CONTROL.sub("", written).replace("\r\n", "\n")
    return [line.rsplit("\r", 1)[-1].rstrip() for line in plain.split("\n")]


def frames(written: str) -> list[str]:
    """Every state of every line, bars included."""
    return [state.rstrip() for state in re.split(r"[\r\n]+", CONTROL.sub("", written))]
