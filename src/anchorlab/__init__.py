"""AnchorLab: which anchors make a Region Proposal Network find the objects?"""

from typing import TYPE_CHECKING

from anchorlab.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from anchorlab.rpn.network import RegionProposalNetwork


__all__ = ["__version__", "load"]


def load(path: "str | Path") -> "RegionProposalNetwork":
    """A trained network, ready to propose, on the CPU: from an exported model, a run's folder or a checkpoint.

    Raises:
        anchorlab.errors.SettingError: there is none, or it names classes of others (`trained.load.load_trained`).
    """
    from anchorlab.trained.load import load_trained  # torch: not for `import anchorlab`

    return load_trained(path).network
