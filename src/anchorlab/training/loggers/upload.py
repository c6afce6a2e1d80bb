"""Upload of runs to Weights & Biases from their folders: sends the curves that the server lacks, and the summary.

    python -m anchorlab.training.loggers.upload outputs/2026-11-22/10-00-00

For runs whose server went away, and for those trained without W&B. Done twice, it sends nothing twice. (`wandb sync`
would repeat the rows that the server has already.) Pictures and tables stay in the run's folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from anchorlab.errors import SettingError, user_sentences
from anchorlab.runs.record import Run, read_run
from anchorlab.training.callbacks.recorder import MONITORED
from anchorlab.training.loggers.hub import defined
from anchorlab.training.loggers.protocol import End, RunFacts
from anchorlab.training.loggers.wandb import WandbLogger

USAGE = "name folders with runs, as in: python -m anchorlab.training.loggers.upload outputs/2026-11-22"


def main(arguments: Sequence[str]) -> None:
    """Upload each run below the folders that are named, and say where it is.

    Raises:
        SettingError: no folders, no run in one, no credentials, or a server that does not answer.
    """
    if not arguments:
        raise SettingError(USAGE)
    for argument in arguments:
        folders = sorted(path.parent for path in Path(argument).rglob("run.json"))
        if not folders:
            raise SettingError(f"{argument} holds no run: {USAGE}")
        for folder in folders:
            print(f"{folder}: {upload(read_run(folder))}")


def upload(run: Run) -> str:
    """Send what the server lacks of a run; where it is seen.

    Raises:
        SettingError: no credentials, or a server that does not answer.
    """
    config = run.config.get("logger") or {}
    place = {key: config[key] for key in ("project", "entity", "group", "job_type", "name", "tags") if key in config}
    logger = WandbLogger("online", **place)
    try:
        logger.start(RunFacts(run.folder, run.id, run.config, run.axes, MONITORED, resumed=True))
    except ValueError as error:
        raise SettingError(str(error)) from error
    columns = run.metrics()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    logger.resumed([defined(row) for row in rows])
    ends: dict[str, End] = {"finished": "finished", "failed": "failed"}
    return logger.finish(ends.get(run.status, "interrupted")) or logger.notice()


if __name__ == "__main__":
    with user_sentences():
        main(sys.argv[1:])
