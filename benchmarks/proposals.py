"""Proposals at test time, from the head's maps to the boxes of each image: AnchorLab against torchvision.

Same maps, same anchors, torchvision's preset: flatten, top-k, decode, clip, NMS. Outputs are compared first. A
second table says which of torch's operators the time goes to on both sides, a third what other ways to thin
candidates out cost.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN

from anchorlab.rpn.network import LevelPredictions, Predictions
from anchorlab.rpn.proposals.nms import Proposals, ProposalSelector, SoftNMSSelector
from anchorlab.rpn.proposals.tiered_nms import TieredNMSSelector
from benchmarks.assignment import Case, our_network
from benchmarks.measure import Options, Row, interleaved, parse, peak_memory, report, set_threads

TOP_N = 1000
OPERATORS_SHOWN = 10
TIERED = OmegaConf.load(Path(__file__).parents[1] / "conf" / "proposals" / "tiered.yaml")

# (case, images in the batch, channels_last)
CASES = (
    (Case((480, 640), 3, 0), 4, False),
    (Case((480, 640), 3, 0), 4, True),
    (Case((800, 1333), 9, 0), 2, False),
    (Case((800, 1333), 9, 0), 2, True),
)
QUICK_CASES = ((Case((96, 128), 3, 0), 2, False),)

Maps = list[tuple[Tensor, Tensor]]


def head_maps(case: Case, batch: int, channels_last: bool) -> Maps:
    """Random logits (B, k, H, W) and deltas (B, 4k, H, W) of every level."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = []
    for grid in case.grids:
        logits = torch.randn(batch, case.k, *grid, generator=generator)
        deltas = 0.2 * torch.randn(batch, 4 * case.k, *grid, generator=generator)
        maps.append((logits.contiguous(memory_format=layout), deltas.contiguous(memory_format=layout)))
    return maps


def calls(case: Case, batch: int, channels_last: bool) -> dict[str, Callable[[], Any]]:
    """Both sides' calls from the same maps to the proposals of a batch."""
    maps, sizes = head_maps(case, batch, channels_last), [case.size] * batch
    ours = our_network(case.k)
    ours.selector = ProposalSelector(TOP_N, TOP_N, min_size=1e-3)
    top_n = {"training": TOP_N, "testing": TOP_N}
    theirs = TorchvisionRPN(AnchorGenerator(), RPNHead(8, case.k), 0.7, 0.3, 256, 0.5, top_n, top_n, 0.7).eval()
    anchors = ours.anchors(case.grids, case.size, "cpu")

    def by_us() -> list[Proposals]:
        predictions = Predictions([LevelPredictions(*level) for level in maps], anchors)
        return ours.propose(predictions, sizes)

    def by_them() -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = concat_box_prediction_layers(*(list(kind) for kind in zip(*maps, strict=True)))
        boxes = theirs.box_coder.decode(deltas, [anchors.boxes] * batch).view(batch, -1, 4)
        return theirs.filter_proposals(boxes, logits, sizes, list(anchors.num_per_level))

    return {"ours": torch.no_grad()(by_us), "theirs": torch.no_grad()(by_them)}


def check_equal(both: dict[str, Callable[[], Any]]) -> None:
    for ours, boxes, scores in zip(both["ours"](), *both["theirs"](), strict=True):
        torch.testing.assert_close(ours.boxes, boxes, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(ours.scores, scores, rtol=1e-6, atol=0)


def one_side(case: Case, batch: int, channels_last: bool, side: str) -> Callable[[], Any]:
    """The call of one side, for a process of its own."""
    return calls(case, batch, channels_last)[side]


def measure(case: Case, batch: int, channels_last: bool, options: Options) -> Row:
    both = calls(case, batch, channels_last)
    check_equal(both)
    timing = interleaved(both, options.num_repeats(11))
    memory = {side: peak_memory(one_side, case, batch, channels_last, side).growth for side in both}
    return {
        **_setting(case, batch, channels_last),
        "AnchorLab ms": timing["ours"].ms,
        "torchvision ms": timing["theirs"].ms,
        "times faster": timing["ours"].times_faster(timing["theirs"]),
        "in single rounds": timing["ours"].range_of_rounds(timing["theirs"]),
        "AnchorLab MiB": memory["ours"],
        "torchvision MiB": memory["theirs"],
    }


def thinning(case: Case, batch: int, channels_last: bool, options: Options) -> list[Row]:
    """Milliseconds an image of each selector, from the same maps."""
    maps, network = head_maps(case, batch, channels_last), our_network(case.k)
    anchors = network.anchors(case.grids, case.size, "cpu")
    selectors = {
        "NMS 0.7": ProposalSelector(TOP_N, TOP_N),
        "NMS 0.7, 2,000 a level": ProposalSelector(2 * TOP_N, TOP_N),
        "tiered NMS": TieredNMSSelector(TIERED.tiers, TOP_N, TOP_N),
        "tiered NMS, 2,000 a level": TieredNMSSelector(TIERED.tiers, 2 * TOP_N, TOP_N),
        "tiered NMS, 2,000 a level, voting": TieredNMSSelector(TIERED.tiers, 2 * TOP_N, TOP_N, vote_sigma=0.01),
        "soft-NMS": SoftNMSSelector(TOP_N, TOP_N),
    }

    def proposing(selector: ProposalSelector) -> Callable[[], Any]:
        def call() -> list[Proposals]:
            predictions = Predictions([LevelPredictions(*level) for level in maps], anchors)
            sizes = [case.size] * batch
            return selector(predictions.logits, predictions.deltas, anchors, network.coder, sizes)

        return torch.no_grad()(call)

    calls = {name: proposing(selector) for name, selector in selectors.items()}
    timing = interleaved(calls, options.num_repeats(5))
    setting = _setting(case, batch, channels_last)
    return [{**setting, "selector": name, "ms an image": timing[name].ms / batch} for name in selectors]


def breakdown(case: Case, batch: int, channels_last: bool, options: Options) -> list[Row]:
    """Milliseconds of each operator itself in one call, most of ours and theirs together first."""
    both = calls(case, batch, channels_last)
    spent = {side: _ms_by_operator(call, options.num_repeats(5)) for side, call in both.items()}
    total = {name: sum(one[name] for one in spent.values()) for one in spent.values() for name in one}
    shown = sorted(total, key=lambda name: -total[name])[:OPERATORS_SHOWN]
    rows = [(name, *(one[name] for one in spent.values())) for name in shown]
    rest = [sum(one.values()) - sum(one[name] for name in shown) for one in spent.values()]
    return [
        {**_setting(case, batch, channels_last), "operator": name, "AnchorLab ms": ours, "torchvision ms": theirs}
        for name, ours, theirs in [*rows, ("all others", *rest)]
    ]


def _setting(case: Case, batch: int, channels_last: bool) -> Row:
    maps = "channels_last" if channels_last else "contiguous"
    return {"case": f"{batch} x {case.size[0]} x {case.size[1]}, k = {case.k}", "maps": maps}


def _ms_by_operator(call: Callable[[], Any], repeats: int) -> defaultdict[str, float]:
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            call()
    spent = {event.key: event.self_cpu_time_total / 1000 / repeats for event in profiler.key_averages()}
    return defaultdict(float, spent)


def main(options: Options) -> None:
    set_threads(options.threads or 1)
    cases = QUICK_CASES if options.quick else CASES
    repeats = options.num_repeats(11)
    setting = {"layout": "of the head's maps: see the table", "precision": "float32", "repeats": repeats}
    rows = [measure(*case, options) for case in cases]
    claim = f"The same {TOP_N} proposals an image as torchvision's preset, from the head's maps on."
    report("proposals", claim, rows, setting, options, ["MiB: what one call adds to the peak of its own process."])
    rows = [row for case in cases for row in thinning(*case, options)]
    claim = "What ways to thin candidates out cost, from the head's maps on."
    notes = ["Random maps: boxes overlap less than those of a trained network, of which NMS leaves fewer."]
    report("proposals-thinning", claim, rows, {**setting, "repeats": options.num_repeats(5)}, options, notes)
    rows = [row for case in cases for row in breakdown(*case, options)]
    claim = "Where the time of the proposals goes: torch's operators, each without those it calls."
    report("proposals-by-operator", claim, rows, setting, options, ["Under torch's profiler, which itself takes time."])


if __name__ == "__main__":
    main(parse(__doc__))
