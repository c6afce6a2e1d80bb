"""The compare.py command: reads runs, compares them, prints tables and writes the page; computes no statistic."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anchorlab.comparing.comparison import Comparison, Question, compare
from anchorlab.comparing.labels import Choices, choices_of
from anchorlab.comparing.page import as_page
from anchorlab.comparing.report import answer, as_csv, as_markdown, on_screen
from anchorlab.comparing.scores import read_runs
from anchorlab.comparing.statistics import Bootstrap
from anchorlab.config.composition import settings_of
from anchorlab.console import console, tell
from anchorlab.errors import SettingError, user_sentences
from anchorlab.installation import CONFIGS
from anchorlab.printable import printable
from anchorlab.runs.files import make_folder, remove_leftovers_of, write_whole


def run_from_command_line(config: DictConfig) -> None:
    """What the compare command does with a composed config."""
    with user_sentences():
        plain = settings_of(config)
        if plain["wandb"]["save"] and plain["wandb"]["entity"] is None:
            raise SettingError(
                "wandb.entity has no value: give the user or team that owns the project, wandb.entity=..."
            )
        comparison = compared(plain, choices_of(CONFIGS))
        console().print(on_screen(comparison, plain["rows"]))
        console().print()
        tell(answer(comparison), "bold")
        for path in write(comparison, output_folder(plain["runs"], plain["output"]), plain["gallery"]):
            console().print(printable(f"  {path}"), markup=False, soft_wrap=True)
        if plain["wandb"]["save"]:
            console().print(f"  {save_workspace(comparison, plain['wandb'])}", markup=False, soft_wrap=True)


def compared(config: dict[str, Any], choices: Choices) -> Comparison:
    """The comparison that a plain config asks for.

    Raises:
        SettingError: the runs, the baseline or the metric cannot be found.
    """
    runs, problems = read_runs(config["runs"])
    question = Question(
        metric=config["metric"],
        baseline=None if config["baseline"] is None else str(config["baseline"]),
        images=config["images"],
        bootstrap=Bootstrap(**config["bootstrap"]),
        choices=choices,
    )
    return compare(runs, question, problems)


def write(comparison: Comparison, folder: Path, gallery: int) -> list[Path]:
    """comparison.csv, .md and .html in `folder`."""
    contents = {"csv": as_csv(comparison), "md": as_markdown(comparison), "html": as_page(comparison, gallery, folder)}
    paths = [make_folder(folder, "output") / f"comparison.{kind}" for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        remove_leftovers_of(path)
        write_whole(path, content.encode())
    return paths


def output_folder(runs: str | list[str], output: str | None) -> Path:
    """Where the files go: as asked for, else into the one folder that was compared, else comparison/."""
    if output is not None:
        return Path(output)
    names = [runs] if isinstance(runs, str) else runs
    return Path(names[0]) if len(names) == 1 and Path(names[0]).is_dir() else Path("comparison")


def save_workspace(comparison: Comparison, settings: dict[str, Any]) -> str:
    """Save the W&B workspace; its address."""
    from anchorlab.comparing.wandb_workspace import saved  # wandb takes a second
    from anchorlab.training.loggers.wandb_service import server_fault

    if fault := server_fault():  # W&B itself would ask for a minute and more
        raise SettingError(f"wandb.save: {fault}: run `wandb login`, or leave wandb=true out")

    return saved(comparison, **{key: settings[key] for key in ("entity", "project", "name", "url")})
