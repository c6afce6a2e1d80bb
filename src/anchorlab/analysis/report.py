"""Report of a study: tables for the terminal, overrides to paste and values for study.json; computes nothing new."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from anchorlab.analysis.coverage import Coverage, Group
from anchorlab.analysis.fitting import Fitted
from anchorlab.console import Column, TextTable
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner

ADVICE_FOR_ATSS = (
    "with ATSS and GIoU anchors mattered little on five unlike data sets, and coverage not at all: for the best 10 "
    "proposals one square anchor, anchor.ratios=[1]; for 1,000 anchor=fit anchor.k=3 (docs/which-anchors.md)"
)
"""What trainings have shown (experiments/which-anchors-predicted), which no number of one data set's boxes tells."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One way to choose anchors, and what its anchors cover; `fitted` where it is ours."""

    method: str
    k: int
    train: dict[str, float]
    val: dict[str, float] | None
    fitted: Fitted | None = None


def coverage_table(coverage: Coverage, title: str) -> TextTable:
    """Coverage of all boxes, and by size, by ratio and by the level of the best anchor."""
    threshold = f"IoU >= {coverage.assigner.foreground_iou:g}"
    spare = {"recall@0.5": 4, "best IoU": 3, "low-quality": 2, "untouched": 1}
    names = ["boxes", "best IoU", "recall@0.5", "recall@0.7", threshold, "low-quality", "untouched", "positives"]
    if coverage.assigner.foreground_iou == 0.7:
        names.remove(threshold)
    columns = [Column("", left=True), *(Column(name.replace("-", "-\n"), spare=spare.get(name, 0)) for name in names)]
    table = TextTable(columns, title)
    sections = [
        ("", [coverage.group("all boxes", coverage.best >= 0)]),
        ("size ", coverage.by_size()),
        ("ratio ", coverage.by_ratio()),
        ("best at ", coverage.by_level()),
    ]
    for prefix, groups in sections:
        if table.rows:
            table.rows.append(None)
        for group in groups:
            table.add(prefix + group.name, *_cells(group, with_threshold=threshold in names))
    return table


def legend(coverage: Coverage) -> list[tuple[str, str]]:
    """What the columns mean, and what follows for an image."""
    shares = "share of the boxes"
    rows = [
        ("recall@t", f"{shares} that some anchor overlaps by at least t: what is possible without regression"),
        ("low-quality", f"{shares} that only their best anchor's low-quality match makes trainable"),
        ("positives", "expected per box; per image: " + f"{coverage.metrics['positives_per_image']:.1f}"),
    ]
    dead = dead_shapes(coverage)
    if dead:
        rows.append(("dead", f"{', '.join(dead)}: no box makes these anchors positive"))
    return rows


def dead_shapes(coverage: Coverage) -> list[str]:
    """The shapes that get no positive anchor from any box, named by level, width and height."""
    return [
        f"{shape_name(shape)} at stride {stride}"
        for stride, shapes, counts in zip(
            coverage.anchors.strides, coverage.anchors.shapes, coverage.shape_positives, strict=True
        )
        for shape, count in zip(shapes.tolist(), counts.tolist(), strict=True)
        if count == 0
    ]


def shape_name(shape: Sequence[float]) -> str:
    width, height = shape
    return f"{width:.0f} x {height:.0f}"


def anchor_lines(anchors: AnchorGrid) -> list[str]:
    """The shapes of each level, width x height."""
    return [
        f"stride {stride}, k = {len(shapes)}: {', '.join(map(shape_name, shapes.tolist()))} px"
        for stride, shapes in zip(anchors.strides, anchors.shapes, strict=True)
    ]


def methods_table(rows: Sequence[Scored], assigner: MaxIoUAssigner, title: str) -> TextTable:
    """One row a method and k: shares covered on the boxes they were chosen for, and on those they were not.

    positives are expected ones per box; * marks the best of its k.
    """
    keys = {
        "coverage": (f"IoU {assigner.foreground_iou:g}", 0),
        "possible_recall_50": ("IoU 0.5", 2),
        "mean_best_iou": ("mean", 3),
        "positives_per_box": ("positives", 1),
    }
    columns = [Column("k"), Column("anchors", left=True)]
    for at, split in enumerate(("train", "val")):
        columns += [Column(f"{split}\n{name}", spare=spare and 2 * spare - at) for name, spare in keys.values()]
    table = TextTable(columns, title)
    for at, row in enumerate(rows):
        if at and rows[at - 1].k != row.k:
            table.rows.append(None)
        cells = []
        for split, metrics in (("train", row.train), ("val", row.val)):
            shown = [_rounded((metrics or {}).get(key), 2 if key == "positives_per_box" else 3) for key in keys]
            if metrics is not None and metrics["coverage"] == _best(rows, row.k, split):
                shown[0] = f"*{shown[0]}"
            cells += shown
        table.add(str(row.k), row.method, *cells)
    return table


def override(fitted: Fitted) -> str:
    """What to type behind train.py for these anchors, quoted for a shell."""
    settings = fitted.settings
    parts = ["anchor=default", "anchor.scale=null"]
    for key in ("shapes", "sizes", "ratios"):
        if settings.get(key) is not None and not (key == "ratios" and "shapes" in settings):
            parts.append(f"'anchor.{key}={_compact(settings[key])}'")
    if settings["offset"] != 0:
        parts.append(f"anchor.offset={settings['offset']:g}")
    return " ".join(parts)


def config_file(fitted: Fitted, comment: str) -> str:
    """A file for conf/anchor: the defaults, with what was fitted in their place."""
    settings = {"sizes": None, "scale": None} | fitted.settings
    body = yaml.safe_dump(settings, default_flow_style=None, sort_keys=False, width=120)
    return f"# {comment}\ndefaults: [default]\n{body}"


def coverage_values(coverage: Coverage) -> dict[str, Any]:
    """Everything in the tables, for study.json."""
    return {
        "figures": coverage.metrics,
        "by_size": [asdict(group) for group in coverage.by_size()],
        "by_ratio": [asdict(group) for group in coverage.by_ratio()],
        "by_level": [asdict(group) for group in coverage.by_level()],
        "shapes": [
            {"stride": stride, "width": shape[0], "height": shape[1], "expected_positives": count}
            for stride, shapes, counts in zip(
                coverage.anchors.strides, coverage.anchors.shapes, coverage.shape_positives, strict=True
            )
            for shape, count in zip(shapes.tolist(), counts.tolist(), strict=True)
        ],
    }


def scored_values(row: Scored) -> dict[str, Any]:
    """A row of the table of methods, for study.json."""
    values: dict[str, Any] = {"method": row.method, "k": row.k, "train": row.train, "val": row.val}
    if row.fitted is not None:
        values |= {"settings": row.fitted.settings, "override": override(row.fitted)}
    return values


def _cells(group: Group, with_threshold: bool) -> list[str]:
    shares = [group.mean_best_iou, group.recall_50, group.recall_70]
    shares += [group.coverage] if with_threshold else []
    shares += [group.saved, group.untouched]
    return [f"{group.boxes:,}", *(_rounded(share, 3) for share in shares), _rounded(group.positives, 2)]


def _best(rows: Sequence[Scored], k: int, split: str) -> float:
    metrics = [getattr(row, split) for row in rows if row.k == k]
    return max((found["coverage"] for found in metrics if found is not None), default=float("nan"))


def _rounded(value: float | None, digits: int) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _compact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_compact(item) for item in value) + "]"
    return f"{value:g}"
