"""Console output: the stream that text for people is written to, and tables and bars that fit any width of it."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from anchorlab.installation import program
from anchorlab.printable import printable

T = TypeVar("T")

SWEEP_JOB = "ANCHORLAB_SWEEP_JOB"
"""Set in the environment of a sweep's jobs, which leave their screens to the sweep's tables: "3 of 12", where known."""
GAP = "  "
COMMAND = "with: "
"""What follows it in a sentence for people is a command: it stands on a line of its own, to be copied whole."""
COMFORTABLE = 32
"""Columns that a cell of words keeps as long as there are spare columns to leave out."""
BESIDE = 57
"""Columns of what stands beside a bar and its description: `120/1400 loss 0.812 epoch 40 s, run 12 min left`."""
NARROW = 80
"""Columns below which less is said."""
FILE_WIDTH = 110
"""Columns of text that goes to a file."""


def console() -> Console:
    """A console as wide as the terminal, and `FILE_WIDTH` columns where the output goes to a file.

    It breaks no line by itself: a terminal folds what is too long for it, and still copies it whole.
    """
    return Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH, soft_wrap=True)


def tell(sentence: str, style: str = "") -> None:
    """Print a sentence for people: broken between words on a terminal, whole in a file."""
    screen = console()
    for line in _folded(sentence, screen.width) if screen.is_terminal else [sentence]:
        screen.print(_line(line, style))


def in_sweep() -> bool:
    """Whether this process is a job of a sweep."""
    return SWEEP_JOB in os.environ


def begin(work: str) -> None:
    """Say what takes seconds before it starts, on a terminal; a sweep's jobs leave that to the sweep."""
    if sys.stdout.isatty() and not in_sweep():
        print(f"{work} ...", flush=True)


def place_in_sweep() -> str:
    """`3 of 12`, where this process is a job of a sweep and it is known; else nothing."""
    place = os.environ.get(SWEEP_JOB, "")
    return place if " of " in place else ""


def command(script: str, overrides: Iterable[str], *more: str) -> str:
    """A command of this project as one types it here: its overrides quoted for a shell, then `more` as it stands."""
    return " ".join([program(script), *(shlex.quote(_as_typed(override)) for override in overrides), *more])


def _as_typed(override: str) -> str:
    """Without the quotes that the command line puts around a path, and puts there again when it is typed.

    A word that Hydra reads as itself needs none either; a number, true or null in quotes is meant as text.
    """
    path, word = r"[\w./~ :@+-]*[/.][\w./~ :@+-]*", r"(?!(?:true|false|null|nan|inf)')[a-zA-Z_][a-zA-Z0-9_-]*"
    return re.sub(rf"^([^='\"]+)='({path}|{word})'$", r"\1=\2", override)


def typed(folder: Path) -> str:
    """A folder as one types it here, for a shell."""
    return shlex.quote(str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder))


def of_groups(overrides: Iterable[str], groups: Sequence[str]) -> list[str]:
    """The overrides that choose one of these config groups, or change a setting of one."""
    return [word for word in overrides if word.lstrip("+~").partition("=")[0].partition(".")[0] in groups]


def duration(seconds: float | None) -> str:
    """ "40 s", "12 min", "3 h 05 min"; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def bar(screen: Console, longest: int = 24) -> Progress:
    """A bar that goes away when it is done; none where nobody watches.

    Of its tasks the field `note` stands behind the count, and `left` at the end, by default the time that is left. The
    bar itself takes what room the words leave.

    Args:
        longest: letters of the longest description.
    """
    room = min(screen.width - longest - BESIDE, 40)
    bars = [BarColumn(bar_width=room)] if room >= 3 else []
    notes = [_Note()] if screen.width >= longest + BESIDE else []
    return Progress(
        TextColumn("{task.description}"),
        *bars,
        _Count(),
        *notes,
        _Left(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )


def tracked(steps: Iterable[T], note: str, total: int | None) -> Iterable[T]:
    """The steps, with a bar on standard error."""
    with bar(Console(stderr=True)) as shown:
        task = shown.add_task(note, total=total)
        for step in steps:
            yield step
            shown.advance(task)


class _Count(ProgressColumn):
    """`3/12`; the count alone where nobody knows the end."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total is not None else ""), no_wrap=True)


class _Note(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""), no_wrap=True)


class _Left(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        known = task.time_remaining
        usual = f"{duration(known)} left" if known is not None and task.total is not None else ""
        return Text(task.fields.get("left") or usual, "progress.remaining", no_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a `TextTable`.

    head: a line break in it starts a second line.
    left: words stand to the left, numbers to the right.
    wraps: its cells may take several lines, broken at blanks.
    spare: above 0: left out where the terminal is too narrow, the highest first.
    """

    head: str
    left: bool = False
    wraps: bool = False
    spare: int = 0

    @property
    def heads(self) -> list[str]:
        return self.head.split("\n")


@dataclass
class TextTable:
    """A table that never cuts a word or a number.

    Where the terminal is too narrow for it, spare columns are left out and named below, then cells that wrap are
    wrapped at blanks; where that is not enough, every row is a block of lines, one for each cell.

    Attributes:
        rows: a cell for each column; None: a gap between rows.
        bold: numbers of the rows that stand out.
    """

    columns: Sequence[Column]
    title: str = ""
    rows: list[Sequence[str] | None] = field(default_factory=list)
    bold: set[int] = field(default_factory=set)

    def add(self, *cells: str, bold: bool = False) -> None:
        if bold:
            self.bold.add(len(self.rows))
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        shown = list(range(len(self.columns)))
        spare = sorted((at for at in shown if self.columns[at].spare), key=lambda at: self.columns[at].spare)
        if console.is_terminal:
            while spare and self._narrowest(shown, COMFORTABLE) > room:
                shown.remove(spare.pop())
        else:
            room = max(room, self._narrowest(shown))  # nobody looks at a file's width
        if self.title:
            yield _line(self.title, "bold")
        if self._narrowest(shown) > room:
            yield from self._blocks(room)
            return
        yield from self._grid(shown, room)
        left_out = [column.head.replace("\n", " ") for at, column in enumerate(self.columns) if at not in shown]
        if left_out:
            yield from (_line(text, "dim") for text in _wrapped(f"too narrow for: {', '.join(left_out)}", room))

    def _grid(self, shown: Sequence[int], room: int) -> Iterable[Text]:
        widths = self._widths(shown, room)
        lines = max(len(self.columns[at].heads) for at in shown)
        heads = [[""] * (lines - len(self.columns[at].heads)) + self.columns[at].heads for at in shown]
        for line in range(lines):
            yield _line(self._joined(shown, [head[line] for head in heads], widths), "bold")
        yield _line("─" * (sum(widths) + len(GAP) * (len(widths) - 1)), "dim")
        for number, row in enumerate(self.rows):
            if row is None:
                yield Text()
                continue
            cells = [
                _wrapped(row[at], width) if self.columns[at].wraps else [row[at]]
                for at, width in zip(shown, widths, strict=True)
            ]
            for line in range(max(map(len, cells))):
                texts = [cell[line] if line < len(cell) else "" for cell in cells]
                yield _line(self._joined(shown, texts, widths), "bold" if number in self.bold else "")

    def _joined(self, shown: Sequence[int], texts: Sequence[str], widths: Sequence[int]) -> str:
        padded = []
        for at, text, width in zip(shown, texts, widths, strict=True):
            blanks = " " * (width - cell_len(text))
            padded.append(text + blanks if self.columns[at].left else blanks + text)
        return GAP.join(padded).rstrip()

    def _blocks(self, room: int) -> Iterable[Text]:
        """Each row as `head  cell`, a line each; the gap of a wrapped cell is under its start."""
        heads = [column.head.replace("\n", " ") for column in self.columns]
        indent = max(map(cell_len, heads)) + len(GAP)
        for number, row in enumerate(self.rows):
            if row is None:
                continue
            for head, cell in zip(heads, row, strict=True):
                for line, text in enumerate(_wrapped(cell, max(room - indent, 20))):
                    start = head if line == 0 else ""
                    yield _line(f"{start:<{indent}}{text}", "bold" if number in self.bold else "")
            yield Text()

    def _narrowest(self, shown: Sequence[int], comfortable: int = 0) -> int:
        """The width of the table where each cell that wraps has `comfortable` columns at least, or its longest word."""
        widths = [
            max(self._least(at), min(self._longest(at), comfortable)) if self.columns[at].wraps else self._least(at)
            for at in shown
        ]
        return sum(widths) + len(GAP) * (len(shown) - 1)

    def _longest(self, at: int) -> int:
        return max(map(cell_len, self._texts(at)), default=0)

    def _least(self, at: int) -> int:
        """Of a column: the longest word where it wraps, else the longest cell."""
        texts = self._texts(at)
        pieces = [word for text in texts for word in text.split()] if self.columns[at].wraps else texts
        return max(map(cell_len, [*pieces, *self.columns[at].heads]), default=0)

    def _widths(self, shown: Sequence[int], room: int) -> list[int]:
        """As wide as the longest cell; where that is too much, the widest of those that wrap give way."""
        least = [self._least(at) for at in shown]
        widths = [max(self._longest(at), narrowest) for at, narrowest in zip(shown, least, strict=True)]
        over = sum(widths) + len(GAP) * (len(widths) - 1) - room
        while over > 0:
            place = max(range(len(widths)), key=lambda place: (widths[place] > least[place], widths[place]))
            if widths[place] == least[place]:
                break
            widths[place] -= 1
            over -= 1
        return widths

    def _texts(self, at: int) -> list[str]:
        return [row[at] for row in self.rows if row is not None]


class Facts:
    """Names and what belongs to each, one below the other; a command keeps to one line, however long, to be pasted.

    Args:
        rows: name ("" goes on with the one above) and text; what stands in it behind `COMMAND` is a command.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self.rows = list(rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        indent = max((cell_len(name) for name, _ in self.rows), default=0) + len(GAP)
        for name, text in self.rows:
            for at, line in enumerate(_folded(text, max(options.max_width - indent, 20))):
                yield _line(f"{name if at == 0 else '':<{indent}}", "bold").append(line, "not bold")


def _folded(text: str, width: int) -> list[str]:
    """A sentence for people in lines, whoever wrote it; a command that ends it is one of them."""
    said, sign, command = printable(text).rpartition(COMMAND)
    return [*_wrapped(said + COMMAND, width), command] if sign else _wrapped(text, width)


def _wrapped(text: str, width: int) -> list[str]:
    """Broken at blanks alone: a word longer than the width stays whole."""
    return wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _line(text: str, style: str = "") -> Text:
    """One line, neither cut nor folded."""
    return Text(printable(text), style, no_wrap=True, overflow="ignore")
