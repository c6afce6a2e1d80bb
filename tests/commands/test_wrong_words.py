"""The four commands as people type them: help and wrong words at once, without torch, in one sentence."""

import subprocess
import sys

import pytest

from anchorlab.errors import SettingError
from tests.commands.conftest import CONFIGS, composed

PROGRAM = """
import runpy, sys
for command in ("evaluate", "propose", "export", "explain"):
    for words in (["--help"], ["rnu=x"]):
        sys.argv = [f"{command}.py", *words]
        try:
            runpy.run_path(f"{sys.argv[0]}", run_name="__main__")
        except SystemExit as left:
            print("left", command, words[0], left.code)
print("heavy", sorted({"torch", "lightning", "matplotlib", "wandb"} & set(sys.modules)))
"""


def test_help_and_wrong_words_are_answered_without_heavy_imports():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    left = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("left")]
    assert left == [
        [command, words, code]
        for command in ("evaluate", "propose", "export", "explain")
        for words, code in (("--help", "0"), ("rnu=x", "2"))
    ]
    assert "heavy []" in done.stdout
    assert done.stderr.count("did you mean run?") == 4


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        ("evaluate", ["run=x", "eval.size=0"], "eval.size=0 is not possible"),
        ("evaluate", ["run=x", "eval.split=vall"], "eval.split=vall is not possible: it must be one of null, train"),
        ("evaluate", [], "run has no value"),
        ("propose", ["run=x"], "source has no value"),
        ("propose", ["run=x", "source=y", "format=[coco,xml]"], "format=[coco,xml] is not possible: it must be one of"),
        ("export", ["run=x", "formats=[onx]"], "formats=[onx] is not possible"),
        ("explain", ["run=x", "image=y", "at=3"], "at=3 is not possible: it must be a list of positive numbers"),
    ],
)
def test_wrong_values_are_one_sentence(command, words, sentence):
    with pytest.raises(SettingError) as error:
        composed(command, *words)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
