"""Checks before training: fits anchors and box coder if the config asks for it, and reports the anchors' coverage.

Training boxes alone are looked at; validation boxes choose nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anchorlab.analysis.coverage import Coverage, cover
from anchorlab.analysis.deltas import means_and_weights
from anchorlab.analysis.fitting import AnchorFit
from anchorlab.analysis.ground_truth import BackboneGrids, GroundTruth, truth_of
from anchorlab.build import build, user_errors, without_weights
from anchorlab.data.module import DataModule
from anchorlab.errors import SettingError
from anchorlab.rpn.assigners.max_iou import Assigner, yardstick
from anchorlab.rpn.coders import FittedDeltaCoder
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.variants import CascadeRPN
from anchorlab.training import known_probes

ADVICE_BOXES = 2000
"""Enough to name an override that helps: its metric is given without a promise of the third digit."""

WORTH_NAMING = 0.05


@dataclass(frozen=True)
class Preflight:
    """What the anchors of a run cover.

    axes: coverage, possible_recall_50 and positives_per_image of the training boxes, for the run's record; empty
    without boxes. line: the same for people; probe: what a probe found of such a network on these boxes, None where
    none is known; warning: what to do about the coverage, None where nothing is wrong.
    """

    axes: dict[str, float]
    line: str
    probe: str | None = None
    warning: str | None = None


def fits_anchors(config: Mapping[str, Any]) -> bool:
    """Whether the group `anchor` is a fit, and holds no anchors yet."""
    return config["anchor"]["_target_"].rsplit(".", 1)[-1] == AnchorFit.__name__


def with_fitted_anchors(config: Mapping[str, Any], data: DataModule) -> dict[str, Any]:
    """The config with anchor=fit replaced by what it finds in the training split; any other config as it is.

    Reads the data set where it fits. The same data and settings give the same anchors, so that all processes agree.

    Raises:
        SettingError: nothing can be fitted.
        DataError: a data set that cannot be used as it is.
    """
    if not fits_anchors(config):
        return dict(config)
    backbone = build(without_weights(config["backbone"]), "backbone")
    fit: AnchorFit = build(config["anchor"], "anchor", strides=backbone.strides)
    with user_errors():
        data.setup()
        found = fit(truth_of(data, "train", BackboneGrids(backbone)), yardstick(build(config["assigner"], "assigner")))
    return {**config, "anchor": found.group}


def fit_coder(config: Mapping[str, Any], data: DataModule, network: RegionProposalNetwork) -> dict[str, Any]:
    """Fit the network's coder to the training boxes where it is to be fitted and is not yet; the config that says so.

    A cascade's last deltas start from anchors that were moved before: nothing is known of them, nothing is fitted.
    """
    coder = network.coder
    if not isinstance(coder, FittedDeltaCoder) or coder.is_fitted or isinstance(network, CascadeRPN):
        return dict(config)
    truth = truth_of(data, "train", BackboneGrids(network.backbone))
    means, weights = means_and_weights(truth, network.anchors, network.assigner, coder.images)
    group = {**config["coder"], "means": means, "weights": weights}
    network.coder = build(group, "coder")
    return {**config, "coder": group}


def look_ahead(config: Mapping[str, Any], data: DataModule, network: RegionProposalNetwork) -> Preflight | None:
    """What the run's anchors cover of its training boxes; None where `preflight` is none.

    Raises:
        SettingError: they cover less than `preflight_least`, and `preflight` is refuse.
    """
    if config["preflight"] == "none":
        return None
    truth = truth_of(data, "train", BackboneGrids(network.backbone))
    if len(truth) == 0:
        return Preflight({}, "no boxes in the training split")
    coverage = cover(truth, network.anchors, network.assigner)
    axes = {name: coverage.metrics[name] for name in ("coverage", "possible_recall_50", "positives_per_image")}
    goes_by_it = network.assigner is coverage.assigner
    line = _line(coverage, network.assigner)
    known = known_probes.find(config.get("probes"), config, truth)
    probe = None if known is None else known.line(network.anchors)
    if axes["coverage"] >= config["preflight_least"] or not (goes_by_it or config["preflight"] == "refuse"):
        return Preflight(axes, line, probe)
    share, threshold, least = axes["coverage"], coverage.assigner.foreground_iou, config["preflight_least"]
    warning = (
        f"only {share:.2f} of the training boxes have an anchor of IoU >= {threshold:g} (preflight_least={least:g}): "
        f"{_advice(coverage, truth)}"
    )
    if config["preflight"] == "refuse":
        raise SettingError(f"preflight=refuse: {warning}")
    return Preflight(axes, line, probe, warning)


def _line(coverage: Coverage, assigner: Assigner) -> str:
    """The coverage in words, and the positives per box; or that the assigner does not go by these IoUs."""
    metrics, threshold = coverage.metrics, coverage.assigner.foreground_iou
    parts = [
        f"{metrics['coverage']:.3f} of {len(coverage.truth):,} training boxes have an anchor of IoU >= {threshold:g}",
        f"{metrics['possible_recall_50']:.3f} of IoU >= 0.5",
    ]
    if assigner is coverage.assigner:
        parts.append(f"{metrics['positives_per_box']:.1f} positive anchors per box")
    else:
        parts.append(f"{type(assigner).__name__} does not go by it")
    if metrics["untouched"] > 0:
        parts.append(f"{metrics['untouched']:.3f} touched by none")
    return "; ".join(parts)


def _advice(coverage: Coverage, truth: GroundTruth) -> str:
    """The override that would help: fitted anchors, more of them where as many do not."""
    k = max(coverage.anchors.num_anchors)
    tried = []
    for count in (k, 2 * k):
        fit = AnchorFit(count, boxes=ADVICE_BOXES, strides=coverage.anchors.strides)
        reached = cover(truth, fit(truth, coverage.assigner).grid(fit.strides), coverage.assigner).metrics["coverage"]
        tried.append((reached, count))
        if reached >= coverage.metrics["coverage"] + WORTH_NAMING:
            return f"anchor=fit anchor.k={count} would cover {reached:.2f}"
    reached, count = max(tried)
    return f"not even anchor=fit anchor.k={count} would cover more than {reached:.2f}; try larger images, data.long"
