"""AnchorLab: which anchors make a Region Proposal Network find the objects?"""

__version__ = "0.1.0"
