"""A command that is interrupted before it has anything to keep says so in a word, without a traceback."""

import os
import signal
import subprocess
import sys

import pytest

from tests.training.conftest import ROOT

WAITS = """
import os, time
os.write(2, b"imports")
time.sleep(600)
"""


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")])
def test_ctrl_c_while_the_settings_are_read_is_one_word(words, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    command = [sys.executable, "-m", "anchorlab", "train", *words, "+callbacks.mine._target_=waits.Mine"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a group of its own, as a terminal gives it
    ) as process:
        assert process.stderr is not None
        said = b""
        while b"imports" not in said:
            more = os.read(process.stderr.fileno(), 1000)
            assert more, said
            said += more
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read().decode()  # to its end: no process is left that holds it
    assert (process.returncode, rest.strip()) == (130, "stopped")
