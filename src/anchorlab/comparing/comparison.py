"""Comparison of run folders: groups seeds, ranks the settings and tests their differences; prints and draws nothing.

Only runs that were scored on the same boxes of the same images stand in one table: what differs in its data is never
compared silently. It prints and draws nothing (see report.py and page.py).

I  images    S  seeds of an entry    N  budgets: how many proposals an image may use
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from anchorlab.comparing.labels import TARGET, Choices, as_asked_for, as_typed, shown
from anchorlab.comparing.scores import ImageKeys, Scores, Unreadable, common_images, read_scores
from anchorlab.comparing.statistics import Bootstrap, Difference, Group, all_pairs, holm
from anchorlab.config import declared
from anchorlab.config.identity import settings_that_count
from anchorlab.config.settings import nearest_word
from anchorlab.errors import SettingError
from anchorlab.metrics.from_ranks import Metric
from anchorlab.runs.record import Run

LABELLED = 4
"""Settings that a label names."""

ANCHORS = "anchorlab.rpn.AnchorGrid"


class Mean(NamedTuple):
    """Over the seeds of an entry; sd is NaN for one."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Entry:
    """A row: one run, or the runs of one setting that differ only in their seeds.

    Attributes:
        runs: by seed; all of one status.
        names: of the runs, told apart from all others.
        settings: what counts in its config and is not the same in the whole table, by dotted key; of what it worked
            out itself, the words that asked it to.
        telling: keys of those that tell it from the other rows, for its label (`telling_keys`).
        swept: those of them that people made the rows differ in (`swept_keys`).
        scores: of each run; empty where none was validated.
        choices: by which classes are named as one types them.
        unscored: why each run has no scores; empty where they have.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    settings: dict[str, Any]
    scores: tuple[Scores, ...]
    telling: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    choices: Choices = field(default_factory=dict)
    unscored: tuple[str, ...] = ()
    difference: Difference | None = None
    p_holm: float | None = None
    verdict: str = ""

    @property
    def status(self) -> str:
        return self.runs[0].status

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def name(self) -> str:
        return self.names[0] + (f" and {len(self.names) - 1} more" if len(self.names) > 1 else "")

    @property
    def label(self) -> str:
        """The settings in which it differs from the others, anchors first; its name where there are none."""
        keys = [key for key in self.telling if key in self.settings]
        named = sorted(set(self.settings).intersection(keys[:LABELLED]), key=list(self.settings).index)
        named.sort(key=_place_in_label)
        parts = [f"{short_key(key, self.settings)}={as_typed(key, self.settings[key], self.choices)}" for key in named]
        more = f" and {len(keys) - LABELLED} more" if len(keys) > LABELLED else ""
        return ", ".join(parts) + more or self.name

    @cached_property
    def metrics(self) -> dict[str, Mean]:
        per_run = [scores.metrics() for scores in self.scores]
        keys = [key for key in (per_run[0] if per_run else ()) if all(key in metrics for metrics in per_run)]
        return {key: mean_of([metrics[key] for metrics in per_run]) for key in keys}

    def metric(self, key: str) -> Mean:
        """Any metric at a budget that was scored, also one that the table does not show."""
        return mean_of([scores.metric(key) for scores in self.scores])

    def axis(self, key: str) -> Any:
        """A scalar axis: the same in all runs, else the mean of their numbers, else None."""
        values = [run.axes.get(key) for run in self.runs]
        if all(value == values[0] for value in values):
            return values[0]
        return _mean_number(values)

    def timing(self, key: str) -> float | None:
        return _mean_number([run.timings.get(key) for run in self.runs])


@dataclass(frozen=True)
class Table:
    """Entries that were scored on the same boxes of the same images, best first, those that have not finished last.

    Attributes:
        data: the data set's folder and its split, for people; the images themselves decide what stands together.
        baseline: the row that the others are compared with; None if the requested run is not in this table.
        chosen: whether a person chose it; else it is the leader, which was found by looking.
    """

    data: str
    images: np.ndarray
    boxes: int
    entries: tuple[Entry, ...]
    baseline: int | None
    chosen: bool
    notes: tuple[str, ...] = ()

    def unfinished(self) -> list[Entry]:
        """Those that are still running or broke off, best first."""
        return [entry for entry in self.entries if entry.status != "finished"]


@dataclass(frozen=True)
class Comparison:
    """The tables, the entries without a score, and notes for the reader."""

    tables: tuple[Table, ...]
    unscored: tuple[Entry, ...]
    notes: tuple[str, ...]
    question: "Question"


@dataclass(frozen=True)
class Question:
    """The question that a comparison answers.

    Args:
        metric: the one that ranks and is tested, at any N.
        baseline: a run's folder, id or name, or a filter `key=value[,key=value]` on settings and axes; None: the
            leader of each table.
        images: `same` puts runs that were scored on other images into tables of their own; `common` scores all on
            the images they share.
        bootstrap: how differences are judged.
        choices: of the config groups, so that `assigner=atss` may be asked for and is what labels say.
    """

    metric: str = "AR_100"
    baseline: str | None = None
    images: str = "same"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    choices: Choices = field(default_factory=dict)


def compare(runs: Sequence[Run], question: Question, notes: Iterable[str] = ()) -> Comparison:
    """Rank runs of any status by their scores.

    Raises:
        SettingError: for a metric no run can give, a baseline that is no run or several, or no image in common.
    """
    metric = _checked(question.metric)
    shared = common_images(runs) if question.images == "common" else None
    found = read_scores(runs, metric, shared)
    problems = [one.why if isinstance(one, Unreadable) else None for one in found]
    scores = [None if isinstance(one, Unreadable) else one for one in found]
    members, repeats = _newest_of_each(list(zip(runs, run_names(runs), scores, problems, strict=True)))
    question = replace(question, baseline=_newer_of(question.baseline, repeats))
    entries = _entries(members, question.choices)
    tables = _name_tables([_rank(rows, question.metric) for rows in entries if rows[0].scores])
    baselines = _baselines(tables, question.baseline)
    return Comparison(
        tables=tuple(_judge(table, at, question) for table, at in zip(tables, baselines, strict=True)),
        unscored=tuple(entry for rows in entries for entry in rows if not entry.scores),
        notes=(*notes, *_notes(tables, repeats, shared)),
        question=question,
    )


# --------------------------------------------------------------------------------------- grouping and ranking


Member = tuple[Run, str, Scores | None, str | None]
"""A run with its name, its scores, and why they cannot be read."""


@dataclass(frozen=True)
class Repeat:
    """A run that is left out, with its name, and the newest one of the same settings, seed, status and data."""

    run: Run
    name: str
    newest: Run


def _newest_of_each(members: Sequence[Member]) -> tuple[list[Member], list[Repeat]]:
    """The newest of runs with equal settings, seed, status and data: a repeat is no independent evidence."""
    newest: dict[Any, Member] = {}
    older: list[tuple[Any, Member]] = []
    for member in sorted(members, key=lambda member: str(member[0].content.get("created"))):
        run, _, scores, _ = member
        key = (run.config_hash or run.folder, run.seed, run.status, scores and scores.data)
        if key in newest:
            older.append((key, newest[key]))
        newest[key] = member
    kept = {id(run) for run, *_ in newest.values()}
    repeats = [Repeat(run, name, newest[key][0]) for key, (run, name, *_) in older]
    return [member for member in members if id(member[0]) in kept], repeats


def _newer_of(asked: str | None, repeats: Sequence[Repeat]) -> str | None:
    """The folder of the run that stands for the one asked for, where that is left out as a repeat; else as asked."""
    return next((str(one.newest.folder) for one in repeats if asked and _is_run(one.run, [one.name], asked)), asked)


def _is_run(run: Run, names: Sequence[str], asked: str) -> bool:
    return asked in (run.id, *names) or Path(asked).resolve() == run.folder.resolve()


def _entries(members: Sequence[Member], choices: Choices) -> list[list[Entry]]:
    """One entry for runs of equal settings and status; a list for each set of images, one for those without scores."""
    by_data: dict[str | None, list[Member]] = {}
    for member in members:
        by_data.setdefault(member[2].data if member[2] else None, []).append(member)
    return [_entries_of(rows, choices) for rows in by_data.values()]


def _entries_of(members: Sequence[Member], choices: Choices) -> list[Entry]:
    runs = [run for run, *_ in members]
    settings = as_asked_for([settings_that_count(run.config) for run in runs], [run.content for run in runs], choices)
    keys = dict.fromkeys(key for of_run in settings for key in of_run)
    differing = [key for key in keys if len({shown(of_run.get(key)) for of_run in settings if of_run}) > 1]
    typed = {_key_of(override) for run in runs for override in run.content.get("overrides") or ()}
    telling = tuple(telling_keys(settings, differing, typed))
    swept = tuple(swept_keys(settings, telling, typed))
    groups: dict[Any, list[int]] = {}
    for at, (run, *_) in enumerate(members):
        groups.setdefault((run.config_hash or run.folder, run.status), []).append(at)
    return [
        Entry(
            runs=tuple(members[at][0] for at in rows),
            names=tuple(members[at][1] for at in rows),
            settings={key: settings[rows[0]].get(key) for key in differing if settings[rows[0]]},
            scores=tuple(score for at in rows if (score := members[at][2]) is not None),
            telling=telling,
            swept=swept,
            choices=choices,
            unscored=tuple(_why_unscored(members[at][0], members[at][3]) for at in rows if members[at][2] is None),
        )
        for rows in (sorted(rows, key=lambda at: members[at][0].seed or 0) for rows in groups.values())
    ]


def _why_unscored(run: Run, problem: str | None) -> str:
    return problem or run.reason or "no validation yet"


def telling_keys(
    settings: Sequence[Mapping[str, Any]], differing: Sequence[str], typed: Container[str] = ()
) -> list[str]:
    """The differing keys that tell rows apart: `typed` ones first, then in the order of `_place_in_label`.

    Each is the one that, after those before it, leaves the fewest rows alike. A setting that merely comes with a class
    (`assigner.candidates` with `assigner._target_`) is left out.
    """
    values = {key: [shown(row.get(key)) for row in settings] for key in differing}
    left = [key for key in differing if not _comes_with_a_class(key, values)]
    left.sort(key=_place_in_label)
    found: list[str] = []
    rows: list[tuple[str, ...]] = [()] * len(settings)
    while left:
        apart = {key: [(*row, value) for row, value in zip(rows, values[key], strict=True)] for key in left}
        best = max(left, key=lambda key: (_is_typed(key, typed), len(set(apart[key]))))  # the first of equals
        rows = apart[best]
        left.remove(best)
        found.append(best)
    return found


def swept_keys(settings: Sequence[Mapping[str, Any]], telling: Sequence[str], typed: Container[str]) -> list[str]:
    """The keys of a label: those that somebody typed, and as many others as it takes to tell the rows apart.

    What a run decides or fits by itself, such as `anchor.shapes` under `anchor=fit`, differs too, and was not swept.
    """
    rows: list[tuple[str, ...]] = [()] * len(settings)
    found: list[str] = []
    for key in telling:
        apart = [(*row, shown(of_run.get(key))) for row, of_run in zip(rows, settings, strict=True)]
        if _is_typed(key, typed) or len(set(apart)) > len(set(rows)):
            found.append(key)
            rows = apart
    return found


def _is_typed(key: str, typed: Container[str]) -> bool:
    return key.removesuffix(TARGET) in typed


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _place_in_label(key: str) -> int:
    """The anchors themselves first, then whole parts (`assigner=atss`), then their settings.

    Last comes how anchors are laid out: only presets of other libraries differ in it.
    """
    if key in (f"anchor.{name}" for name in declared.attribute(ANCHORS, "HABITS")):
        return 3
    return 0 if key.startswith("anchor.") else 1 if key.endswith(TARGET) else 2


def _comes_with_a_class(key: str, values: Mapping[str, Sequence[str]]) -> bool:
    """Whether the class of the group that the key stands in, or of one around it, says the key's value."""
    parts = key.removesuffix(TARGET).split(".")
    around = [values.get(".".join(parts[:length]) + TARGET) for length in range(1, len(parts))]
    return any(
        len(set(zip(classes, values[key], strict=True))) == len(set(classes))
        for classes in around
        if classes is not None
    )


def run_names(runs: Sequence[Run]) -> list[str]:
    """The name W&B was given, else the last two parts of the folder; longer where two would be the same."""
    given = [(run.config.get("logger") or {}).get("name") for run in runs]
    names = [str(name) if name else _tail(run, 2) for run, name in zip(runs, given, strict=True)]
    return [
        name if names.count(name) == 1 else (f"{name} ({run.folder})" if called else str(run.folder))
        for run, name, called in zip(runs, names, given, strict=True)
    ]


def _rank(entries: Sequence[Entry], metric: str) -> Table:
    """Best first; below the finished those that have not finished, which stand by their last validation."""
    ordered = sorted(entries, key=lambda entry: (entry.status != "finished", -entry.metric(metric).mean))
    scores = ordered[0].scores[0]
    return Table(_data_name(ordered[0]), scores.images, scores.boxes, tuple(ordered), None, False)


def _data_name(entry: Entry) -> str:
    data = entry.runs[0].config.get("data") or {}
    root = str(data.get("root") or "data").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    split = data.get("validate_on") or "val"
    return f"{root}, {'held out of train' if split == 'val' and data.get('holdout') else split}"


def _name_tables(tables: Sequence[Table]) -> list[Table]:
    """Largest first; tables of one name are told apart by a letter."""
    tables = sorted(tables, key=lambda table: -len(table.entries))
    names = [table.data for table in tables]
    letters = [f" ({chr(ord('A') + names[:at].count(name) % 26)})" for at, name in enumerate(names)]
    return [
        replace(table, data=name + letter) if names.count(name) > 1 else table
        for table, name, letter in zip(tables, names, letters, strict=True)
    ]


def _baselines(tables: Sequence[Table], asked: str | None) -> list[int | None]:
    """The row of the baseline in every table."""
    if asked is None:
        return [0 for _ in tables]
    found = [[at for at, entry in enumerate(table.entries) if _is_asked(entry, asked)] for table in tables]
    if not any(found):
        names = [name for table in tables for entry in table.entries for name in entry.names]
        nearest = nearest_word(asked, [*names, *(run.id for table in tables for e in table.entries for run in e.runs)])
        hint = f"did you mean {nearest}?" if nearest else f"there are {', '.join(names[:4])}"
        raise SettingError(f"baseline={asked} is no run with scores: {hint}")
    for table, rows in zip(tables, found, strict=True):
        if len(rows) > 1:
            several = "; ".join(table.entries[at].label for at in rows[:3])
            raise SettingError(f"baseline={asked} fits {len(rows)} rows ({several}): say more, or give a run's folder")
    return [rows[0] if rows else None for rows in found]


def _is_asked(entry: Entry, asked: str) -> bool:
    if any(_is_run(run, (entry.name, *entry.names), asked) for run in entry.runs):
        return True
    terms = [term.partition("=") for term in split_terms(asked)]
    settings = settings_that_count(entry.runs[0].config) | entry.settings
    groups = {
        key.removesuffix(TARGET): as_typed(key, value, entry.choices)
        for key, value in settings.items()
        if key.endswith(TARGET)
    }
    known = settings | entry.runs[0].axes | groups | {"status": entry.status}
    return all(
        sign and any(_same(known[name], value) for name in known if name == key or name.endswith(f".{key}"))
        for key, sign, value in terms
    )


def split_terms(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    terms, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            terms.append("")
        else:
            terms[-1] += letter
    return [term.strip() for term in terms]


def _same(value: Any, text: str) -> bool:
    try:
        return value == yaml.safe_load(text) or str(value) == text
    except yaml.YAMLError:
        return str(value) == text


# ---------------------------------------------------------------------------------------------------- judging


def _judge(table: Table, baseline: int | None, question: Question) -> Table:
    """Every entry against the baseline; `p_holm` covers all comparisons of the table, or those it was picked from."""
    table = replace(table, baseline=baseline, chosen=question.baseline is not None)
    if baseline is None:
        note = f"no run here is baseline={question.baseline}: nothing is tested"
        return replace(table, notes=(note,))
    scores = [entry.scores for entry in table.entries]
    groups = [
        Group(entry.seeds, np.stack([one.found for one in of_entry]))
        for entry, of_entry in zip(table.entries, scores, strict=True)
    ]
    wanted = scores[baseline][0].wanted
    if wanted.sum() == 0:
        return replace(table, notes=(f"no image has a box that {question.metric} looks for: nothing is tested",))
    differences = question.bootstrap.against(baseline, groups, wanted)
    tested = [difference.p for difference in differences if difference is not None]
    adjusted = iter(holm(tested, None if table.chosen else all_pairs(len(table.entries))))
    entries = [
        replace(entry, verdict="baseline")
        if difference is None
        else _judged(entry, difference, float(next(adjusted)), 1 - question.bootstrap.confidence)
        for entry, difference in zip(table.entries, differences, strict=True)
    ]
    return replace(table, entries=tuple(entries), notes=tuple(_table_notes(table, int((wanted > 0).sum()))))


def _judged(entry: Entry, difference: Difference, p_holm: float, alpha: float) -> Entry:
    ahead = "better" if difference.estimate > 0 else "worse"
    return replace(entry, difference=difference, p_holm=p_holm, verdict=ahead if p_holm < alpha else "cannot tell")


def _table_notes(table: Table, images: int) -> Iterable[str]:
    others = len(table.entries) - 1
    baseline = table.entries[table.baseline or 0]
    if others and baseline.status != "finished":
        why = "was asked for" if table.chosen else "stands in, as no run has finished"
        yield f"the baseline, {baseline.label}, is {baseline.status}: it {why}; differences to it will change"
    if others > 1 and not table.chosen:
        yield (
            f"no baseline was given: the leader stands in, found by looking, so p is corrected for all "
            f"{all_pairs(others + 1)} pairs; baseline=<run> tests more sharply"
        )
    if others and any(len(entry.seeds) == 1 for entry in table.entries):
        yield (
            "with one seed, the interval covers image noise only: it compares these two networks, not the two settings"
        )
    if others and images < 30:
        yield f"only {images} image{'s' * (images != 1)} with boxes: intervals of so few are rough"


def _notes(tables: Sequence[Table], repeats: Sequence[Repeat], restricted: ImageKeys | None) -> Iterable[str]:
    runs = [run for table in tables for entry in table.entries for run in entry.runs]
    for repeat in repeats:
        yield f"{repeat.run.folder} has the settings and the seed of a newer run, {repeat.newest.folder}: left out"
    if restricted:
        yield f"images=common: every metric is of the {len(restricted)} images that all runs share, not as logged"
    if len(tables) > 1:
        shared = set.intersection(*(set(table.images.tolist()) for table in tables))
        hint = "; images=common compares on them" if shared and restricted is None else ""
        yield (
            f"the runs were scored on {len(tables)} different sets of images or boxes "
            f"({len(shared)} image ids in common): each has a table of its own{hint}"
        )
    commits = {run.content.get("commit") for run in runs} - {None}
    if len(commits) > 1:
        names = ", ".join(sorted(str(commit)[:7] for commit in commits))
        yield f"the runs come from {len(commits)} commits of AnchorLab: {names}"
    for run, name in zip(runs, run_names(runs), strict=True):
        yield from (f"{name}: {warning}" for warning in run.warnings.values())
    unfinished = [run for run in runs if run.status != "finished"]
    if unfinished:
        count = len(unfinished)
        stand = "stands by its" if count == 1 else "stand by their"
        yield (
            f"{count} of the {len(runs)} runs with scores did not finish (yet) and {stand} last validation, "
            f"below the finished and without a rank"
        )


# ---------------------------------------------------------------------------------------------------- helpers


def short_key(key: str, among: Iterable[str]) -> str:
    """`k` for anchor.k where no other key ends so; a class stands under its group's name."""
    key, among = key.removesuffix(TARGET), [other.removesuffix(TARGET) for other in among]
    tail = key.rsplit(".", 1)[-1]
    return tail if sum(other.rsplit(".", 1)[-1] == tail for other in among) == 1 else key


def mean_of(values: Sequence[float]) -> Mean:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Mean(float(np.mean(values)), sd, len(values))


def _mean_number(values: Sequence[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return float(np.mean(numbers)) if numbers else None


def _checked(metric: str) -> Metric:
    try:
        return Metric.of(metric)
    except ValueError as error:
        raise SettingError(f"metric={error}") from error


def _tail(run: Run, parts: int) -> str:
    return "/".join(run.folder.absolute().parts[-parts:])
