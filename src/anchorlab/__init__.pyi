from anchorlab.build import build_data as build_data
from anchorlab.build import build_network as build_network
from anchorlab.interface.anchors import coverage as coverage
from anchorlab.interface.comparisons import Comparison as Comparison
from anchorlab.interface.comparisons import compare as compare
from anchorlab.interface.metrics import Metrics as Metrics
from anchorlab.interface.metrics import recall as recall
from anchorlab.interface.runs import Run as Run
from anchorlab.interface.runs import load as load
from anchorlab.interface.runs import train as train
from anchorlab.interface.settings import compose as compose
from anchorlab.rpn.anchors import AnchorGrid as AnchorGrid
from anchorlab.training.module import RPNModule as RPNModule

__version__: str
