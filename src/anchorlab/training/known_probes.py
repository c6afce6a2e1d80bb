"""Verdicts of earlier probes: `study.py probe=true` keeps its own, and the trainings that it holds for start with it.

It holds for the same training boxes at the same size and the same network, whatever its anchors: one file for each.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anchorlab.analysis.ground_truth import GroundTruth
from anchorlab.config.identity import anchor_hash, config_hash
from anchorlab.errors import DamagedFile
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.runs.files import write_whole
from anchorlab.runs.reading import read_json

GROUPS = ("backbone", "head", "coder", "assigner", "sampler", "loss", "objectness", "quality", "cascade")
"""Of a network that is probed, all but its anchors. A second look is left out of probes, and may be trained."""


@dataclass(frozen=True)
class KnownProbe:
    """The outcome of one probe.

    day: it was made. verdict: in words. expected: AR@100 of each of its candidates, by `anchor_hash`.
    """

    day: str
    verdict: str
    expected: Mapping[str, float]

    def line(self, anchors: AnchorGrid) -> str:
        """The verdict, and what was expected of these anchors."""
        mine, best = self.expected.get(anchor_hash(anchors.shapes)), max(self.expected.values())
        if mine is None:
            here = "the anchors above were not among them"
        elif mine == best:
            here = "the anchors above are expected best"
        else:
            here = f"the anchors above are expected {best - mine:.3f} behind the best"
        return f"{self.verdict} ({len(self.expected)} sets of anchors, {self.day}); {here}"


def keep(folder: str | None, config: Mapping[str, Any], truth: GroundTruth, probe: KnownProbe) -> None:
    """Keep a probe for later trainings, in place of an earlier one.

    Args:
        folder: setting `probes`; None: keep nothing. One that cannot be written keeps nothing either: the study's own
            folder has it all.
        config: of any of its candidates.
        truth: the training boxes.
    """
    if folder is None:
        return
    path = _path(folder, config, truth)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{json.dumps(asdict(probe), indent=2)}\n".encode())
    except OSError:
        return


def find(folder: str | None, config: Mapping[str, Any], truth: GroundTruth) -> KnownProbe | None:
    """What a probe found of the network of this config and these training boxes; None where none is known."""
    if folder is None:
        return None
    try:
        content = read_json(_path(folder, config, truth))
        expected = {str(anchors): float(value) for anchors, value in content["expected"].items()}
        return KnownProbe(str(content["day"]), str(content["verdict"]), expected) if expected else None
    except (OSError, DamagedFile, LookupError, TypeError, ValueError, AttributeError):
        return None  # nothing there, or not a file that `keep` wrote


def _path(folder: str, config: Mapping[str, Any], truth: GroundTruth) -> Path:
    network = config_hash({name: config[name] for name in GROUPS if name in config})  # a run of old may lack a group
    digest = hashlib.sha256(network.encode())
    for part in (truth.boxes, truth.image, truth.sizes):
        digest.update(part.contiguous().numpy().tobytes())
    return Path(folder).expanduser() / f"{digest.hexdigest()[:16]}.json"
