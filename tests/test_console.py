"""Tables, facts and bars at every width: nothing is cut, and a command stays on one line."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from anchorlab.console import COMMAND, NARROW, Column, Facts, TextTable, bar, command, duration, of_groups
from tests.terminal import lines, on_terminal

WIDTHS = (60, 80, 120, 200)
HEADS = ("#", "run", "AR@100", "AR@1000", "recall@100", "anchors\nper image", "time", "status")
ROWS = (
    ("1", "ratios=[0.5,1,2], k=12, lr=0.01", "0.512 ± 0.003", "0.634", "0.801", "1,234,567", "3 h 05 min", "best"),
    ("2", "assigner=atss, k=3", "0.498 ± 0.012", "0.611", "0.790", "3,000", "40 s", "broke off: to resume"),
)
SAID = {None: "-", 0.4: "0 s", 89: "89 s", 90: "2 min", 3599: "1 h 00 min", 11100: "3 h 05 min"}


def table() -> TextTable:
    spare = {"AR@1000": 1, "recall@100": 2, "anchors\nper image": 3, "time": 4}
    words = ("run", "status")
    made = TextTable([Column(head, head in words, head in words, spare.get(head, 0)) for head in HEADS], "40 images")
    for row in ROWS:
        made.add(*row)
    return made


def printed(what: RenderableType, width: int, terminal: bool = True) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=terminal, no_color=True, highlight=False, soft_wrap=True).print(what)
    return lines(file.getvalue())


@pytest.mark.parametrize("width", [40, *WIDTHS])
def test_a_table_is_no_wider_than_the_terminal_and_cuts_nothing(width):
    shown = printed(table(), width)
    assert max(map(cell_len, shown)) <= width
    everything = set(" ".join(shown).split())
    for row in ROWS:
        for at in (0, 1, 2, 7):  # those that are never left out
            assert set(row[at].split()) <= everything, "no word or number is broken"


def test_what_a_narrow_terminal_leaves_out_is_named():
    wide, narrow = (" ".join(printed(table(), width)) for width in (200, 80))
    assert "1,234,567" in wide
    assert "too narrow for" not in wide
    assert "1,234,567" not in narrow
    assert "too narrow for:" in narrow
    assert "anchors per image, time" in narrow


def test_where_no_column_can_go_each_row_is_a_block():
    shown = printed(table(), 36)
    assert "AR@100             0.512 ± 0.003" in shown
    assert "time               3 h 05 min" in shown


def test_a_column_without_a_head_and_with_empty_cells_takes_no_room():
    table = TextTable([Column("job"), Column("", left=True, wraps=True)])
    table.add("0", "")
    out = io.StringIO()
    Console(file=out, width=40).print(table)
    assert [line.strip() for line in out.getvalue().splitlines()] == ["job", "─────", "0"]


def test_a_file_gets_every_column():
    assert "1,234,567" in " ".join(printed(table(), 60, terminal=False))


def test_a_command_stays_on_one_line_of_its_own():
    line = "wandb sync --include-online outputs/2026-11-28/22-43-45/wandb/offline-run-20261128_224351-ll9q1dop"
    said = f"offline (no credentials found); upload later {COMMAND}{line}"
    shown = printed(Facts([("W&B", said), ("next", "x")]), 60)
    assert [text.strip() for text in shown if "wandb sync" in text] == [line]
    assert all(cell_len(text) <= 60 for text in shown if "wandb sync" not in text)


@pytest.mark.parametrize("width", [40, 80])
def test_a_sentence_is_broken_between_words_on_a_terminal_and_whole_in_a_file(tmp_path, width):
    said = "12 images: anchors that found no box: 45 x 23 at stride 8, see more with: python explain.py run=a"
    program = [sys.executable, "-c", f"from anchorlab.console import tell; tell({said!r})"]
    code, written = on_terminal(program, width, tmp_path)
    assert code == 0
    *sentence, command, end = lines(written)
    assert (command, end) == ("python explain.py run=a", "")
    assert max(map(len, sentence)) <= width
    assert " ".join([*sentence, command]) == said
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == f"{said}\n"


def test_a_proposed_command_is_quoted_for_a_shell():
    overrides = ["data.root=/my photos", "anchor.ratios=[0.5,1]", "+data.x=1", "optimizer.lr=1"]
    assert of_groups(overrides, ("data",)) == ["data.root=/my photos", "+data.x=1"]
    line = command("train", overrides[:2], "-m")
    assert line.endswith("train 'data.root=/my photos' 'anchor.ratios=[0.5,1]' -m")


def test_a_path_is_shown_without_the_quotes_that_the_command_line_put_around_it():
    line = command("train", ["data.root='/data/cells'", "data.images='/my photos'", "data.root='photos'"])
    assert line.endswith("train data.root=/data/cells 'data.images=/my photos' data.root=photos")


@pytest.mark.parametrize("text", ["2007", "null", "true", "a, b", "josé"])
def test_quotes_that_make_a_text_of_a_value_stay(text):
    assert command("train", [f"logger.name='{text}'"]).endswith(f"""'logger.name='"'"'{text}'"'"''""")


@pytest.mark.parametrize(("seconds", "said"), SAID.items())
def test_durations_have_their_units(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_says_what_its_time_is_at_every_width(width):
    description = "3 of 12  epoch 10/12"
    left = "run 3 h 05 min left" if width < NARROW else "epoch 40 s, run 3 h 05 min left"
    progress = bar(Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True), len(description))
    progress.add_task(description, total=1400, completed=1300, note="loss 0.812", left=left)
    shown = printed(progress.get_renderable(), width)[0]
    assert cell_len(shown) <= width
    for part in (description, "1,300/1,400", left):
        assert part in shown
    assert ("━" in shown) == (width >= NARROW)


def test_the_first_line_comes_before_anything_is_loaded(tmp_path):
    """What is printed before torch is imported: here it cannot be."""
    program = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None; sys.argv = ['train.py', 'anchor.ki=3']\n"
        "from anchorlab.cli.overrides import check_command_line\n"
        f"check_command_line('train', Path({str(Path(__file__).parents[1] / 'conf')!r}))"
    )
    code, written = on_terminal([sys.executable, "-c", program], 80, tmp_path)
    assert code == 2
    assert lines(written)[0] == "train: reading the settings ..."
