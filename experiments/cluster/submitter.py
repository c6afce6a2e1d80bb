"""What a sweep of many array jobs costs the process that submits it, on a Slurm of two drained nodes.

The jobs stay in the queue. When all are submitted, each gets the record of a run that has finished, and the array is
cancelled: what the submitter then does is what it does when jobs end. Needs root, and apt-get install slurm-wlm munge.

    python -m experiments.cluster.submitter 1000
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.slurm import Slurm, missing
from tests.training.conftest import ROOT, SMALL


def main(jobs: int) -> None:
    if (reason := missing()) is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "slurm").mkdir()
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
        with Slurm(folder / "slurm", {**os.environ, **own}) as slurm:
            slurm.run("scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=trial")
            measure(slurm, folder, jobs)


def measure(slurm: Slurm, folder: Path, jobs: int) -> None:
    data = f"data.root={folder / 'data'}"
    train = ("python", str(ROOT / "train.py"), *SMALL, data, "trainer.accelerator=cpu", "logger=csv")
    slurm.run(*train, "debug=one_step", "hydra.run.dir=one", cwd=folder)
    rates = ",".join(f"{1 + number / jobs:.6f}e-3" for number in range(jobs))
    queue = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "sweep.probe=false", "hydra.sweep.dir=sweep")
    before, start = cpu_of_children(), time.monotonic()
    with (folder / "output").open("w") as output:
        command = [*train, "-m", f"optimizer.lr={rates}", *queue]
        sweep = subprocess.Popen(command, cwd=folder, env=slurm.environment, stdout=output, stderr=output)
        while "in the queue" not in (folder / "output").read_text():
            assert sweep.poll() is None, (folder / "output").read_text()[-2000:]
            time.sleep(0.5)
    print(f"{jobs} jobs submitted after {time.monotonic() - start:.0f} s, {cpu(sweep.pid):.1f} s of its own CPU")
    asked, used = time.monotonic(), cpu(sweep.pid)
    time.sleep(120)
    print(f"waiting: {60 * (cpu(sweep.pid) - used) / (time.monotonic() - asked):.2f} s of CPU a minute")
    files = [path for path in (folder / "sweep").rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB")
    record = json.loads((folder / "one" / "run.json").read_text())
    for number in range(jobs):
        place = folder / "sweep" / str(number)
        place.mkdir(exist_ok=True)
        for name in ("config.yaml", "metrics.csv", "recall.npz"):
            (place / name).write_bytes((folder / "one" / name).read_bytes())
        (place / "run.json").write_text(json.dumps({**record, "id": f"job{number:05}", "config_hash": str(number)}))
    ended = time.monotonic()
    slurm.run("scancel", "--user=root")
    peak = 0
    while sweep.poll() is None:
        peak = max(peak, memory(sweep.pid))
        time.sleep(0.2)
    print(f"its table {time.monotonic() - ended:.0f} s after the last job, peak of memory {peak / 1024:.0f} MiB")
    print(f"CPU in all, its children's too: {cpu_of_children() - before:.0f} s")
    print((folder / "output").read_text().splitlines()[-1], f"(exit code {sweep.returncode})")
    before, start = cpu_of_children(), time.monotonic()
    slurm.run("python", str(ROOT / "compare.py"), "runs=sweep", cwd=folder)
    page = next((folder / "sweep").rglob("*.html"))
    took, spent = time.monotonic() - start, cpu_of_children() - before
    print(f"compare.py: {took:.0f} s, {spent:.0f} s of CPU, page {page.stat().st_size / 2**20:.1f} MiB")


def cpu_of_children() -> float:
    """Seconds that the processes have computed that this one started, and that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def cpu(process: int) -> float:
    """Seconds that the process has computed."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: int) -> int:
    """KiB of memory that it has needed at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
