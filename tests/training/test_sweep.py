"""A sweep's jobs are processes of their own: one failing job ends itself, and DDP children replay the right command."""

import json
from pathlib import Path


def records(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/run.json")}


def test_failing_job_is_recorded_and_the_others_go_on(small, train, tmp_path):
    done = train("-m", *small, "anchor.k=3,7,6", "debug=one_step", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    runs = records(tmp_path / "sweep")
    assert {job: run["status"] for job, run in runs.items()} == {"0": "finished", "1": "failed", "2": "finished"}
    assert [runs[job]["axes"]["k"] for job in ("0", "2")] == [3, 6]
    assert "anchor.k=7" in runs["1"]["reason"]
    table = done.stdout[done.stdout.index("3 jobs in sweep") :]
    assert all(words in table for words in ("anchor.k=3", "anchor.k=6", "anchor.k=7", "finished"))


def test_sweep_of_two_process_jobs_runs_each_job_once(small, train, tmp_path):
    arguments = ("-m", "anchor.k=3,6", "trainer=ddp_cpu", "trainer.threads=1", "trainer.epochs=1")
    done = train(*small, *arguments, "hydra.sweep.dir=sweep")  # -m may stand behind overrides
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 2
    assert {job: run["axes"]["k"] for job, run in records(tmp_path / "sweep").items()} == {"0": 3, "1": 6}
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}
