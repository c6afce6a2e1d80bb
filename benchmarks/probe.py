"""Benchmark of study.py's probe: seconds of each of its stages for twelve anchor configurations, and each one's share.

On the built-in data, EfficientNet-Lite0-FPN with random weights that stay as they are, as ImageNet's would: nothing is
downloaded, and the time is the same. What all configurations share is paid once; each one more costs the rest.
"""

import tempfile
import time
from collections import defaultdict

from anchorlab.analysis.probe import Budget, probe
from anchorlab.build import build_data
from anchorlab.cli.overrides import check_overrides
from anchorlab.commands.study_probe import networks_on_a_trunk
from anchorlab.installation import CONFIGS
from benchmarks.measure import Options, Row, parse, report, set_threads

SCALES, RATIOS = (1.5, 4, 8, 16), ("[1]", "[0.5,1,2]", "[4,6,8]")


def main(options: Options) -> None:
    threads = options.threads or 1
    set_threads(threads)
    names = [f"anchor.scale={scale} anchor.ratios={ratios}" for scale in SCALES for ratios in RATIOS]
    names = names[:2] if options.quick else names
    budget = Budget(images=8, held_out=4, trunk_steps=4, steps=4) if options.quick else Budget()
    with tempfile.TemporaryDirectory() as root:
        shared = [f"data.root={root}", "backbone=efficientnet_lite0_fpn", "backbone.weights=none", "data.long=256"]
        configs = [check_overrides("train", CONFIGS, [*shared, *name.split()]) for name in names]
        data = build_data(configs[0])
        data.setup()
        networks = networks_on_a_trunk(configs, names, data)
        seconds: dict[str, float] = defaultdict(float)
        now, since = "", time.perf_counter()

        def next_stage(what: str, done: int, steps: int) -> None:
            nonlocal now, since
            at = time.perf_counter()
            seconds[now] += at - since
            now, since = "each configuration's own layers" if what.startswith("anchors ") else what, at

        probe(networks, data, budget, progress=next_stage)
        next_stage("", 0, 0)
    del seconds[""]
    whole = sum(seconds.values())
    rows: list[Row] = [{"stage": stage, "s": value, "share": value / whole} for stage, value in seconds.items()]
    rows.append({"stage": "all", "s": whole, "share": 1.0})
    setting = {"layout": "auto", "precision": "float32", "repeats": 1, "configurations": len(names)}
    report("probe", f"A probe of {len(names)} configurations, by stage.", rows, setting, options)


if __name__ == "__main__":
    main(parse(__doc__))
