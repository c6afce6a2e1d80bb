"""Model card of a trained network: facts from its run, as values and as a page (MODEL_CARD.md)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anchorlab.printable import for_markdown
from anchorlab.rpn.backbones.backbones import Backbone
from anchorlab.trained.load import Trained
from anchorlab.version import __version__

SHOWN = (
    "recall_10",
    "recall_100",
    "recall_1000",
    "AR_10",
    "AR_100",
    "AR_300",
    "AR_1000",
    "AR_s_100",
    "AR_m_100",
    "AR_l_100",
)
COVERAGE = ("coverage", "possible_recall_50", "possible_recall_70", "positives_per_image")


def facts(trained: Trained) -> dict[str, Any]:
    """Plain values: data, anchors, coverage, metrics, commit, licence; those of an exported model stay as they are."""
    if trained.about:
        return dict(trained.about)
    run, network = trained.run, trained.network
    content = {} if run is None else run.content
    axes = {} if run is None else run.axes
    data = trained.config["data"]
    return {
        "name": trained.folder.name,
        "checkpoint": trained.file.stem,
        "run": None if run is None else run.id,
        "epoch": trained.epoch,
        "step": trained.step,
        "data": {
            "name": Path(data["root"]).name,
            "format": str(data["reader"]["_target_"]).rsplit(".", 1)[-1].removesuffix("Reader"),
            "scored_on": data.get("validate_on", "val"),
        },
        "anchors": [
            {"stride": stride, "shapes": [[round(side, 2) for side in shape] for shape in shapes.tolist()]}
            for stride, shapes in zip(network.anchors.strides, network.anchors.shapes, strict=True)
        ],
        "coverage": {name: axes[name] for name in COVERAGE if isinstance(axes.get(name), int | float)},
        "figures": {name: value for name, value in trained.metrics.items() if value is not None},
        "commit": content.get("commit"),
        "versions": content.get("versions") or {},
        "licence": licence(trained.config, network.backbone),
    }


def licence(config: Mapping[str, Any], backbone: Backbone) -> str:
    """Of the weights the training began with."""
    weights = config["backbone"].get("weights", "none")
    if config.get("start"):
        return f"begun with the weights in {Path(config['start']).name}: their licence holds on"
    if weights == "none":
        return "trained from random weights: yours, within what the licence of the data allows"
    if weights != "imagenet":
        return f"begun with the weights in {Path(weights).name}: their licence holds on"
    return backbone.licence


def as_page(
    about: Mapping[str, Any],
    config: Mapping[str, Any],
    files: Sequence[str],
    checks: Sequence[str],
    usage: Mapping[str, str],
) -> str:
    """MODEL_CARD.md; `checks` are sentences about how the files were compared and how fast they are.

    usage: by file, the lines of Python that use it.
    """
    about = _escaped(about)
    data, anchors = about.get("data", {}), about.get("anchors", [])
    sections = {
        "What it is": [
            f"A Region Proposal Network of Faster R-CNN ({config['backbone']['_target_'].rsplit('.', 1)[-1]}): it "
            "proposes boxes where objects may be, without classes; it is no detector.",
            f"Input: RGB, {_size(config['data'])}, of any height and width; the files pad it to multiples of "
            f"{config['data'].get('pad_to', 1)} themselves, as in training.",
            f"Proposals: {_selector(config['proposals'])}.",
        ],
        "Trained on": [
            f"{data.get('name')} ({data.get('format')}), {about.get('epoch')} epochs, {about.get('step'):,} steps.",
            "Objects unlike those of this data set may not be found, and what it leaves unmarked is background.",
        ],
        "Anchors": [_level(level) for level in anchors],
        "Coverage of the training boxes": [f"{name}: {value:.3f}" for name, value in about.get("coverage", {}).items()],
        f"Metrics ({data.get('scored_on')} split, {about.get('checkpoint')} checkpoint)": _metrics_table(about),
        "Files": [f"`{name}`" for name in files],
        "Checks": list(checks),
        "Where it comes from": [
            f"AnchorLab {about.get('versions', {}).get('anchorlab', __version__)}, commit {about.get('commit')}, "
            f"run {about.get('run')}.",
            f"Weights: {about.get('licence')}.",
        ],
    }
    parts = [f"# {about.get('name')}", *(_section(title, lines) for title, lines in sections.items() if lines)]
    parts += [f"## Using {file}\n\n```python\n{lines}```" for file, lines in usage.items()]
    return "\n\n".join(parts) + "\n"


def _escaped(value: Any) -> Any:
    """With every text as Markdown shows it letter by letter: a model may come from a stranger."""
    if isinstance(value, Mapping):
        return {name: _escaped(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_escaped(child) for child in value]
    return for_markdown(value) if isinstance(value, str) else value


def _section(title: str, lines: Sequence[str]) -> str:
    if lines[0].startswith("|"):
        return f"## {title}\n\n" + "\n".join(lines)
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines)


def _metrics_table(about: Mapping[str, Any]) -> list[str]:
    metrics = about.get("figures", {})
    rows = [
        f"| {name.replace('_', '@', 1) if name.count('_') == 1 else name} | {metrics[name]:.3f} |"
        for name in SHOWN
        if metrics.get(name, -1) >= 0
    ]
    return ["| metric | value |", "| --- | --- |", *rows] if rows else []


def _level(level: Mapping[str, Any]) -> str:
    shapes = ", ".join(f"{width:g} x {height:g}" for width, height in level["shapes"])
    return f"stride {level['stride']}: {shapes} px (width x height)"


def _selector(settings: Mapping[str, Any]) -> str:
    name = settings["_target_"].rsplit(".", 1)[-1]
    given = (
        f"{key}={for_markdown(str(value))}"
        for key, value in settings.items()
        if key != "_target_" and value is not None
    )
    return ", ".join((name, *given))


def _size(data: Mapping[str, Any]) -> str:
    sides = [f"{name} side {data[name]} px" for name in ("short", "long") if data.get(name)]
    return "resized to " + ", ".join(sides)
