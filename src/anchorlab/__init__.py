"""AnchorLab: which anchors make a Region Proposal Network find the objects?"""

from anchorlab.exports import exports
from anchorlab.version import __version__ as __version__

__getattr__, __dir__ = exports(__name__)
