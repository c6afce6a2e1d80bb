"""docs/check_links.py, which make lint runs: what it takes for a link, for a heading, and for broken."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def checked(page: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "docs" / "check_links.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [line.split(": ", 1)[1] for line in done.stdout.splitlines()[:-1]]


def test_broken_links_are_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, twice\n# A `title`, twice\n[1](page.md) [2](#a-title-twice-1)\n"
        "[3](page.md#a-title-twice) ![4](no.png) [5](#a-title-thrice) [6](page.md#none)\n"
        "[7](https://nowhere.invalid/) `[8](code.md)`\n"
        "```\n# no heading\n[9](code.md)\n```\n[10](#no-heading)\n"
    )
    code, lines = checked(page)
    assert code == 1
    assert lines == [
        "no.png: no such file",
        "#a-title-thrice: no such heading",
        "page.md#none: no such heading",
        "#no-heading: no such heading",
    ]


def test_a_page_in_order_passes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[one](#one)\n")
    assert checked(page) == (0, [])
