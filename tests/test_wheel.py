"""The wheel: holds the config groups and all that the package reads, and trains in a folder outside of the clone.

It is installed into an environment of its own. That one sees the packages of this one by a .pth file, which names their
folder: what .pth files in that folder say (that of the editable install) is not read, so that AnchorLab is the wheel's.
"""

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from anchorlab.version import __version__
from tests.training.conftest import SMALL

ROOT = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Run:
    """Runs a program of the new environment in a folder."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    packages = [path for path in sys.path if path.endswith("-packages")]
    (environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "others.pth").write_text(
        "\n".join(packages)
    )
    uv = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(uv, check=True, capture_output=True)

    def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)

    return run


def test_wheel_holds_the_config_groups_and_all_that_the_package_reads(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", "conf", "src"], cwd=ROOT, check=True, capture_output=True, text=True)
    names = {
        name.removeprefix("src/").replace("conf/", "anchorlab/conf/", 1)
        if name.startswith("conf/")
        else name.removeprefix("src/")
        for name in listed.stdout.split()
    }
    assert names - held == set()
    assert {name for name in held - names if ".dist-info/" not in name and name.endswith((".yaml", ".pyc"))} == set()


def test_wheel_trains_outside_of_the_clone_with_choices_beside_the_working_folder(installed, tmp_path):
    where = "import anchorlab, anchorlab.installation; print(*anchorlab.__path__, anchorlab.installation.CONFIGS)"
    found = installed(tmp_path, "python", "-c", where).stdout.split()
    assert len(found) == 2
    assert all("environment" in path and path.startswith(sys.prefix) is False for path in found)
    (tmp_path / "conf" / "anchor").mkdir(parents=True)
    (tmp_path / "conf" / "anchor" / "mine.yaml").write_text("defaults: [default]\nscale: 3\nratios: [1, 2]\n")
    quick = [
        *SMALL,
        "trainer.max_steps=1",
        "logger=csv",
        "callbacks.outcome.images=0",
        f"data.root={tmp_path / 'data'}",
    ]
    done = installed(tmp_path, "anchorlab", "train", *quick, "anchor=mine", "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n          anchorlab train " in done.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["figures"]["final"]["step"]) == ("finished", 1)
    assert record["axes"]["k"] == 2


def test_program_answers_before_it_loads_anything(installed, tmp_path):
    assert installed(tmp_path, "anchorlab", "--version").stdout == f"AnchorLab {__version__}\n"
    assert "explain   One image's way" in installed(tmp_path, "anchorlab").stdout
    wrong = installed(tmp_path, "anchorlab", "trian")
    assert (wrong.returncode, wrong.stderr) == (2, "error: trian is no command: did you mean anchorlab train?\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [("anchorlab ", "evaluate"), ("anchorlab train anchor=f", "anchor=fpn"), ("anchorlab compare base", "baseline=")],
)
def test_shell_completion_knows_commands_choices_and_settings(installed, tmp_path, monkeypatch, line, offered):
    monkeypatch.setenv("COMP_LINE", line)
    assert offered in installed(tmp_path, "anchorlab", "-sc", "query=bash").stdout.split()
