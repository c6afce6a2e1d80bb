"""What a training has imported when it takes its first step."""

import json
import subprocess
import sys
from pathlib import Path

from tests.training.conftest import ROOT

NOT_YET = ("scipy", "matplotlib", "timm", "albumentations", "pycocotools", "wandb", "sympy")
"""Half a second to a second each, which a training on the built-in data can do without until then."""

TO_FIRST_STEP = """
import json, os, runpy, sys

class Watch:
    '''Finds no module; notes which module asked first for each of some packages.'''

    def __init__(self, packages):
        self.packages, self.importers = packages, {}

    def find_spec(self, name, path=None, target=None):
        if name in self.packages:
            frame = sys._getframe(1)
            while frame and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            self.importers.setdefault(name, frame.f_globals["__name__"])

def first_step(*_):
    loaded = {name: by for name, by in watch.importers.items() if name in sys.modules}
    print(json.dumps(loaded), file=sys.stderr, flush=True)
    os._exit(0)

watch = Watch(sys.argv[1].split(","))
sys.meta_path.insert(0, watch)
script, *arguments = sys.argv[2:]

class Hook:
    '''The hook on torch's optimizers, as soon as there are any: torch is to be imported by the command.'''

    def find_spec(self, name, path=None, target=None):
        if name == "anchorlab.commands.train":
            from torch.optim.optimizer import register_optimizer_step_post_hook
            register_optimizer_step_post_hook(first_step)

sys.meta_path.insert(0, Hook())
sys.argv, sys.path[0] = [script, *arguments], os.path.dirname(script)
runpy.run_path(script, run_name="__main__")
"""


def importers_at_the_first_step(folder: Path, watched: tuple[str, ...], *arguments: str) -> dict[str, str]:
    """Of `watched`, those that were imported before the first step, and the modules that did it."""
    command = [sys.executable, "-c", TO_FIRST_STEP, ",".join(watched), str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_first_step_comes_before_the_imports_that_it_does_not_need(small, tmp_path):
    seen = importers_at_the_first_step(tmp_path, (*NOT_YET, "torch"), *small, "logger=wandb", "logger.mode=offline")
    assert seen.pop("torch")  # the list is of this process
    assert seen == {}, "imported before the first step: " + ", ".join(f"{name} by {by}" for name, by in seen.items())
