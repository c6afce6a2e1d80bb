"""What can be handed over: a network made of the plain parts, which do what the paper says and nothing more."""

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector

PLAIN = {
    "anchors": AnchorGrid,
    "head": RPNHead,
    "coder": DeltaCoder,
    "selector": ProposalSelector,
}


def require_plain(network: RegionProposalNetwork, target: str, any_selector: bool = False) -> None:
    """Raise SettingError where the network does more than scores and deltas -> top k -> NMS, which `target` knows.

    any_selector: whether `target` knows other ways from scores and boxes to proposals, too.
    """
    found = {"network": network} | {name: getattr(network, name) for name in PLAIN}
    for name, kind in {"network": RegionProposalNetwork, **PLAIN}.items():
        if type(found[name]) is not kind and not (any_selector and name == "selector"):
            instead = "; proposals=default gives one" if name == "selector" else ""
            raise SettingError(
                f"{target} cannot express {name} {type(found[name]).__name__}: it knows {kind.__name__} alone{instead}"
            )
    if network.selector.vote_sigma is not None and not any_selector:
        raise SettingError(f"{target} cannot express box voting; proposals=default has none")
