"""Commands as programs: `anchorlab train ...`, and in a clone `python train.py ...`; each does the same.

A command's name is that of its config in conf/ and of its module in `anchorlab.commands`, which is imported when the
command line has been found to be in order: --help and a wrong key are answered without torch.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from anchorlab.cli.overrides import check_command_line
from anchorlab.cli.study_arguments import unfold
from anchorlab.config.composition import VERSION_BASE
from anchorlab.config.settings import nearest_word
from anchorlab.deferred import defer
from anchorlab.errors import INTERRUPTED, exit_with, user_sentences
from anchorlab.installation import CONFIGS, arguments_of, program
from anchorlab.sweeps.jobs import run_job
from anchorlab.training.processes import process_rank
from anchorlab.version import __version__


@dataclass(frozen=True)
class Command:
    """A command on its command line.

    Attributes:
        about: what it does.
        usage: its arguments.
        own_folder: whether it leaves a folder of its own below outputs/; one that does not, does not sweep either.
        short: arguments that stand for longer ones.
    """

    about: str
    usage: str
    own_folder: bool = True
    short: Mapping[str, str] = field(default_factory=dict)


COMMANDS = {
    "train": Command("Train one RPN", "[group=choice] [group.key=value]; -m sweeps; --cfg job shows all settings."),
    "study": Command(
        "Which anchors fit the data, before training", "data=... [anchor=...], or fit=true anchor.k=3,6,9."
    ),
    "compare": Command(
        "Compare runs",
        "runs=<folder> [baseline=<run or filter>]; --cfg job shows all settings.",
        own_folder=False,
        short={"wandb=true": "wandb.save=true"},
    ),
    "evaluate": Command(
        "Score trained networks",
        "run=<folder or checkpoint> [data=... data.root=...] [split=test].",
        short={f"split={split}": f"eval.split={split}" for split in ("train", "val", "test")},
    ),
    "propose": Command(
        "Proposals for images",
        "run=<folder or checkpoint> source=<image, folder, glob, list, COCO JSON>.",
        own_folder=False,
    ),
    "export": Command(
        "Hand a trained network over",
        "run=<folder or checkpoint>; safetensors, torch.export, ONNX, a card.",
        own_folder=False,
    ),
    "explain": Command(
        "One image's way through a trained network, in pictures and numbers",
        "run=<run> image=<file>.",
        own_folder=False,
    ),
}


def main() -> None:
    """The program `anchorlab`: its first argument is the command, the others are the command's."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as for `python train.py`: classes of one's own, by _target_
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"AnchorLab {__version__}")
    elif name in ("--help", "-h"):
        print(overview())
    elif name in ("-sc", "--shell-completion"):
        complete(arguments)
    elif name not in COMMANDS:
        nearest = nearest_word(name, COMMANDS)
        hint = f"did you mean anchorlab {nearest}?" if nearest else f"there are {', '.join(COMMANDS)}"
        exit_with(f"{name} is no command: {hint}")
    else:
        del sys.argv[1]
        run(name, behind_program=[name])


def run(name: str, behind_program: list[str] | None = None) -> None:
    """Run a command with the arguments in `sys.argv`; a wrong command line is one sentence and exit code 2.

    Ctrl-C where the command has nothing to keep, or to say of it, is one word and exit code 130.

    Args:
        behind_program: arguments that choose the command, which are not in `sys.argv`. Lightning starts the other
            processes of a run by `sys.argv`, so that they stand in it again when the command runs.
    """
    try:
        _run(name, behind_program or [])
    except KeyboardInterrupt:
        if process_rank() == 0:
            print("\nstopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _run(name: str, behind_program: list[str]) -> None:
    defer()
    command = COMMANDS[name]
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(f"AnchorLab {__version__}")
        return
    if name == "study":
        with user_sentences():
            sys.argv[1:] = unfold(sys.argv[1:])
    about = f"{command.about}: {program(name)} {command.usage}"
    check_command_line(name, CONFIGS, command.own_folder, command.short, about)
    sweep_job, module = arguments_of(name), f"anchorlab.commands.{name}"

    @hydra.main(**VERSION_BASE, config_path=str(CONFIGS), config_name=name)
    def task(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            run_job(config, sweep_job, module)
            return
        sys.argv[1:1] = behind_program
        import_module(module).run_from_command_line(config)

    _compose_once()
    task()


def _compose_once() -> None:
    """Leave out the composition by which Hydra reads `hydra.mode`, where no argument sets it: half a second."""
    by_composing = Hydra.get_mode

    # Hydra 1.4 passes one argument more, the parsed overrides.
    def get_mode(self: Hydra, config_name: str | None, overrides: list[str], **parsed: Any) -> Any:
        asked = any(override.lstrip("+").startswith("hydra.mode=") for override in overrides)
        return by_composing(self, config_name, overrides, **parsed) if asked else None

    Hydra.get_mode = get_mode


def overview() -> str:
    """The page of `anchorlab --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"AnchorLab {__version__}: experiments with the anchors of a Region Proposal Network.",
            "",
            *lines,
            "",
            "anchorlab <command> --help shows the command's groups and settings; anchorlab --version; tab completion:",
            '  eval "$(anchorlab -sc install=bash)"   (or zsh, fish)',
        ]
    )


def complete(arguments: list[str]) -> None:
    """Shell completion, which Hydra does for a command: COMP_LINE is the line so far, `anchorlab train anchor=`."""
    program, *words = os.environ.get("COMP_LINE", "").split(" ")
    if arguments[:1] and arguments[0].startswith("query=") and len(words) < 2:
        print(" ".join(COMMANDS))
        return
    name = words[0] if words and words[0] in COMMANDS else "train"
    os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
    run(name)
