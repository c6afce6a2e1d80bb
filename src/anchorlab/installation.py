"""Installation of AnchorLab: where its config groups lie and how its commands are typed, in a clone and without one.

A wheel holds `conf/` inside the package; a clone has it beside the root scripts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CONFIGS = next(folder for folder in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if folder.is_dir())
"""The folder of the config groups."""


def groups() -> list[str]:
    """The config groups that become a part of a run's config."""
    return sorted(
        folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and folder.name not in ("hydra", "experiment")
    )


def program(command: str) -> str:
    """A command as a person types it after this one: "python train.py", or "anchorlab train" where that was typed."""
    if not _by_root_script():
        return f"anchorlab {command}"
    interpreter, here = Path(sys.executable), Path.cwd()
    shown = interpreter.relative_to(here) if interpreter.is_relative_to(here) else "python"
    return f"{shown} {command}.py"


def arguments_of(command: str) -> Sequence[str]:
    """What stands behind the interpreter to start a command as this process was started."""
    return [str(CONFIGS.with_name(f"{command}.py"))] if _by_root_script() else ["-m", "anchorlab", command]


def _by_root_script() -> bool:
    script = Path(sys.argv[0]).resolve()
    return script.suffix == ".py" and script.parent == CONFIGS.parent != PACKAGE
