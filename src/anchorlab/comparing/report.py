"""Text report of a comparison: tables on the screen, comparison.csv for programs, comparison.md for people.

It computes nothing, and takes nothing from a run's folder for markup: names are shown letter by letter.
"""

import csv
import html
import io
import math
from collections.abc import Iterable
from typing import Any

from rich.console import Group as Lines

from anchorlab import notebook
from anchorlab.comparing.comparison import Comparison, Entry, Mean, Table
from anchorlab.comparing.labels import shown
from anchorlab.console import Column, Facts, TextTable
from anchorlab.metrics.from_ranks import Metric
from anchorlab.printable import for_markdown, for_spreadsheet

HEADLINE = ("AR_100", "AR_1000", "recall_100")
WRAPPED = ("run", "why")
LEAVING = {
    head: len(SPARE) - at
    for SPARE in (
        ("images/s", "time", "coverage", "anchors", "k", "recall@100", "AR@1000", "seeds"),
        ("t over seeds", "P(better)", "p (Holm)"),
    )
    for at, head in enumerate(SPARE)
}
"""Columns that a narrow terminal leaves out, the highest number first."""
SPREAD = "± is the standard deviation over the seeds of a row"
AXES = {"k": "k", "anchors_per_image": "anchors", "coverage": "coverage"}
"""The axes shown beside the metric, and their column heads; comparison.csv has every axis."""


def on_screen(comparison: Comparison, rows: int) -> Lines:
    """Rich tables: a ranking and the differences of each data set, then runs without scores, then notes.

    Args:
        rows: at most so many of a table, and its baseline.
    """
    parts: list[Any] = []
    for table in comparison.tables:
        parts += [_as_text(_ranking(comparison, table, rows), _title(table)), ""]
        differences = _differences(comparison, table, rows)
        if len(differences) > 1:
            parts += [_as_text(differences, _against(comparison, table)), ""]
    if comparison.unscored:
        parts += [_as_text(_without_scores(comparison, rows), "Without scores"), ""]
    notes = [note for table in comparison.tables for note in table.notes] + [*comparison.notes]
    if any(len(entry.seeds) > 1 for table in comparison.tables for entry in table.entries):
        notes.insert(0, SPREAD)
    return Lines(*parts, Facts([("note", note) for note in dict.fromkeys(notes)]))


def as_markdown(comparison: Comparison) -> str:
    """The same tables with all rows, for a README or an issue."""
    lines = [f"# {for_markdown(answer(comparison))}", ""]
    for table in comparison.tables:
        lines += [f"## {for_markdown(_title(table))}", "", *_as_markdown(_ranking(comparison, table)), ""]
        differences = _differences(comparison, table)
        if len(differences) > 1:
            lines += [f"{for_markdown(_against(comparison, table))}:", "", *_as_markdown(differences), ""]
        notes = [SPREAD, *table.notes] if any(len(entry.seeds) > 1 for entry in table.entries) else table.notes
        lines += [f"- {for_markdown(note)}" for note in notes] + [""] * bool(notes)
    if comparison.unscored:
        lines += ["## Without scores", "", *_as_markdown(_without_scores(comparison)), ""]
    lines += [f"- {for_markdown(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(comparison: Comparison) -> str:
    """One line an entry, with every setting that differs, every axis and every metric (mean, sd, n over seeds)."""
    rows = rows_of(comparison)
    text = io.StringIO(newline="")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.writer(text, lineterminator="\n")
    for cells in (columns, *([row.get(key, "") for key in columns] for row in rows)):
        writer.writerow([for_spreadsheet(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The lines of comparison.csv with their values; "" where an entry has none."""
    rows = [
        _csv_row(comparison, table.data, rank_of(table, at), entry)
        for table in comparison.tables
        for at, entry in enumerate(table.entries)
    ]
    return rows + [_csv_row(comparison, "", None, entry) for entry in comparison.unscored]


def as_html(comparison: Comparison) -> str:
    """The answer and the tables, as a notebook shows them."""
    parts = [f"<p><b>{html.escape(answer(comparison))}</b></p>"]
    for table in comparison.tables:
        parts.append(_as_html(_ranking(comparison, table), _title(table)))
        differences = _differences(comparison, table)
        if len(differences) > 1:
            parts.append(_as_html(differences, _against(comparison, table)))
    if comparison.unscored:
        parts.append(_as_html(_without_scores(comparison), "Without scores"))
    return "".join(parts)


def answer(comparison: Comparison) -> str:
    """One sentence: the leader, and whether its lead is more than noise; a run that has not finished does not lead."""
    if not comparison.tables:
        return "No run has scores yet"
    table = comparison.tables[0]
    leader, metric = table.entries[0], comparison.question.metric
    if leader.status != "finished":
        return f"No run has finished yet; {_standing(leader, metric)}"
    words = "is highest with" if len(table.entries) > 1 else "of"
    start = f"{Metric.of(metric)} {words} {leader.label}: {with_sd(leader.metric(metric))}"
    ahead = [entry for entry in table.unfinished() if entry.metric(metric).mean > leader.metric(metric).mean]
    end = f" ({_standing(ahead[0], metric)})" if ahead else ""
    return start + _lead(table, leader) + end


def _lead(table: Table, leader: Entry) -> str:
    """Whether the leader's lead over the other finished rows is more than noise."""
    finished = [entry for entry in table.entries if entry.status == "finished"]
    others = len(finished) - 1
    if others == 0 or table.baseline is None:
        return ""
    if table.baseline > 0:
        return f", {difference_of(leader)} against the baseline: {leader.verdict}"
    tied = sum(entry.verdict == "cannot tell" for entry in finished)
    if tied == others:
        return f"; it cannot be told from the other{'s' * (others > 1)}"
    if tied:
        return f"; {tied} of the {others} others cannot be told from it"
    noise = "noise" if all(len(entry.seeds) > 1 for entry in finished) else "the noise of the images"
    return f"; its lead is beyond {noise}"


def _standing(entry: Entry, metric: str) -> str:
    return f"{entry.label} ({entry.status}) stands at {with_sd(entry.metric(metric))} by its last validation"


# ----------------------------------------------------------------------------------------------- rows of cells

Cells = list[list[str]]
"""The heads, then a list for each row; a head that starts with < is left-aligned."""


def _ranking(comparison: Comparison, table: Table, rows: int | None = None) -> Cells:
    metric = comparison.question.metric
    metrics = [metric, *(key for key in HEADLINE if key != metric and key in table.entries[0].metrics)]
    axes = [axis for axis in AXES if any(entry.axis(axis) is not None for entry in table.entries)]
    unfinished = any(entry.status != "finished" for entry in table.entries)
    heads = ["#", "<run", "seeds", *(str(Metric.of(key)) for key in metrics), *(AXES[axis] for axis in axes)]
    heads += ["time", "images/s", *(["<status"] if unfinished else [])]
    cells = [heads]
    for rank, entry in _first(table, rows):
        cells.append(
            [
                "-" if rank is None else str(rank),
                entry.label,
                str(len(entry.runs)),
                with_sd(entry.metric(metric)),
                *(f"{entry.metric(key).mean:.3f}" for key in metrics[1:]),
                *(number(entry.axis(axis)) for axis in axes),
                duration(entry.timing("fit_s")),
                number(entry.timing("train_images_per_s")),
                *([entry.status] if unfinished else []),
            ]
        )
    return cells


def _differences(comparison: Comparison, table: Table, rows: int | None = None) -> Cells:
    cells = [["#", "<run", "difference", _interval_head(comparison), "P(better)", "p (Holm)", "<verdict"]]
    tested = [(rank, entry) for rank, entry in _first(table, rows) if entry.difference is not None]
    paired = any(entry.difference and entry.difference.paired for _, entry in tested)
    cells[0][5:5] = ["t over seeds"] if paired else []
    for rank, entry in tested:
        assert entry.difference is not None
        assert entry.p_holm is not None
        t = entry.difference.paired
        beside = "-" if t is None else f"{interval(t.low, t.high)} n={t.seeds}"
        cells.append(
            [
                "-" if rank is None else str(rank),
                entry.label,
                f"{entry.difference.estimate:+.3f}",
                interval(entry.difference.low, entry.difference.high),
                probability(entry.difference.better),
                *([beside] if paired else []),
                p_value(entry.p_holm),
                entry.verdict,
            ]
        )
    return cells


def _interval_head(comparison: Comparison) -> str:
    return f"{100 * comparison.question.bootstrap.confidence:g} % interval"


def _without_scores(comparison: Comparison, rows: int | None = None) -> Cells:
    cells = [["<run", "<status", "<why"]]
    for entry in comparison.unscored[:rows]:
        for name, run, why in zip(entry.names, entry.runs, entry.unscored, strict=True):
            cells.append([name, run.status, why])
    return cells


def _first(table: Table, rows: int | None) -> Iterable[tuple[int | None, Entry]]:
    """Entries with their ranks; None for those that have not finished."""
    for at, entry in enumerate(table.entries):
        if rows is None or at < rows or at == table.baseline:
            yield rank_of(table, at), entry


def rank_of(table: Table, at: int) -> int | None:
    """The rank of a row; None where it has not finished."""
    return at + 1 if table.entries[at].status == "finished" else None


def _csv_row(comparison: Comparison, data: str, rank: int | None, entry: Entry) -> dict[str, Any]:
    difference, metric = entry.difference, comparison.question.metric
    row: dict[str, Any] = {
        "data": data,
        "rank": "" if rank is None else rank,
        "run": entry.name,
        "status": entry.status,
        "reason": entry.runs[0].reason or "",
        "seeds": " ".join(str(seed) for seed in entry.seeds),
        "metric": metric,
        "difference": "" if difference is None else difference.estimate,
        "low": "" if difference is None else difference.low,
        "high": "" if difference is None else difference.high,
        "p_better": "" if difference is None else difference.better,
        "p": "" if difference is None else difference.p,
        "p_holm": "" if entry.p_holm is None else entry.p_holm,
        "verdict": entry.verdict,
    }
    paired = difference.paired if difference else None
    for name in ("seeds", "estimate", "low", "high", "p"):
        row[f"paired_t_{name}"] = "" if paired is None else getattr(paired, name)
    row |= {key: shown(value) for key, value in entry.settings.items()}
    row |= {f"axes.{key}": number(entry.axis(key), digits=9) for key in entry.runs[0].axes}
    row |= {f"timings.{key}": entry.timing(key) for key in entry.runs[0].timings}
    for key, value in entry.metrics.items() if metric in entry.metrics else _with_metric(entry, metric):
        row |= {key: value.mean, f"{key}_sd": "" if math.isnan(value.sd) else value.sd}
    return row | {"folders": " ; ".join(str(run.folder) for run in entry.runs)}


def _with_metric(entry: Entry, metric: str) -> list[tuple[str, Mean]]:
    return [*([(metric, entry.metric(metric))] if entry.scores else []), *entry.metrics.items()]


# ------------------------------------------------------------------------------------------------------ layout


def _as_text(cells: Cells, title: str) -> TextTable:
    """For the terminal."""
    columns = [
        Column(head.lstrip("<"), head.startswith("<"), head.lstrip("<") in WRAPPED, LEAVING.get(head, 0))
        for head in cells[0]
    ]
    table = TextTable(columns, title)
    for row in cells[1:]:
        table.add(*row)
    return table


def _as_markdown(cells: Cells) -> list[str]:
    heads = [head.lstrip("<") for head in cells[0]]
    rule = ["---" if head.startswith("<") else "---:" for head in cells[0]]
    rows = [heads, *cells[1:]]
    lines = ["| " + " | ".join(map(for_markdown, row)) + " |" for row in rows]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _as_html(cells: Cells, title: str) -> str:
    return notebook.table([head.lstrip("<") for head in cells[0]], cells[1:], title)


def _title(table: Table) -> str:
    return f"{table.data}: {len(table.images):,} images, {table.boxes:,} boxes"


def _against(comparison: Comparison, table: Table) -> str:
    assert table.baseline is not None
    which = "the baseline" if table.chosen else "the leader"
    entry = table.entries[table.baseline]
    status = "" if entry.status == "finished" else f" ({entry.status})"
    return f"{Metric.of(comparison.question.metric)} against {which}, {entry.label}{status}"


def with_sd(value: Mean) -> str:
    return f"{value.mean:.3f}" if math.isnan(value.sd) else f"{value.mean:.3f} ± {value.sd:.3f}"


def difference_of(entry: Entry) -> str:
    """The difference with its interval."""
    assert entry.difference is not None
    return f"{entry.difference.estimate:+.3f} {interval(entry.difference.low, entry.difference.high)}"


def interval(low: float, high: float) -> str:
    return "[?, ?]" if math.isnan(low) else f"[{low:+.3f}, {high:+.3f}]"


def probability(share: float) -> str:
    return "< 0.001" if share < 0.001 else "> 0.999" if share > 0.999 else f"{share:.3f}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: Any, digits: int = 4) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shown(value)
    return f"{value:,.0f}" if abs(value) >= 1000 and digits < 9 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
