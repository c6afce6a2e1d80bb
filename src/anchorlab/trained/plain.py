"""Plain networks, the only ones that are handed over: their parts do what the paper says and nothing more."""

from collections.abc import Sequence

from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.coders import DeltaCoder, FittedDeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.variants import RefinedRPN

PLAIN = {
    "anchors": (AnchorGrid,),
    "head": (RPNHead,),
    "coder": (DeltaCoder, FittedDeltaCoder),
    "selector": (ProposalSelector,),
}


def require_plain(
    network: RegionProposalNetwork,
    target: str,
    selectors: Sequence[type[ProposalSelector]] | None = (),
    instead: str = "",
    second_look: bool = False,
) -> None:
    """Raise SettingError where the network does more than scores and deltas -> top k -> NMS, which `target` knows.

    selectors: ways from scores and boxes to proposals that `target` knows, with box voting; empty: plain NMS alone,
        without voting; None: any. instead: what the error proposes for a selector that `target` does not know.
    second_look: whether `target` knows a network that looks again at its best boxes.
    """
    found = {"network": network} | {name: getattr(network, name) for name in PLAIN}
    networks = (RegionProposalNetwork, RefinedRPN) if second_look else (RegionProposalNetwork,)
    known: dict[str, tuple[type, ...]] = {"network": networks, **PLAIN}
    if selectors is None:
        del known["selector"]
    elif selectors:
        known["selector"] = tuple(selectors)
    ways_out = {"selector": instead, "network": "; train with refine=none, cascade=none and quality=none"}
    for name, kinds in known.items():
        if type(found[name]) not in kinds:
            raise SettingError(
                f"{target} cannot express {name} {type(found[name]).__name__}: it knows "
                f"{' and '.join(kind.__name__ for kind in kinds)} alone{ways_out.get(name, '')}"
            )
    if network.selector.vote_sigma is not None and selectors == ():
        raise SettingError(f"{target} cannot express box voting{instead}")
