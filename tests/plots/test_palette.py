"""One home of colours: pictures name them, and both pages are given the same ones."""

import re
from pathlib import Path

import pytest

from anchorlab.plots import palette

SRC = Path(palette.__file__).parents[1]


@pytest.mark.parametrize("path", sorted([*SRC.glob("plots/**/*.py"), *SRC.rglob("*.js")]), ids=lambda path: path.name)
def test_no_other_file_has_colours_of_its_own(path):
    if path.name != "palette.py":
        assert re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text()) == []


@pytest.mark.parametrize("page", ["plots/anchors_page/page.css", "comparing/web/page.css"])
def test_the_pages_take_the_colours_of_boxes_from_the_palette(page):
    used = set(re.findall(r"var\(--(\w+-box)\)", (SRC / page).read_text()))
    assert {"truth-box", "missed-box"} <= used <= set(re.findall(r"--(\w+-box):", palette.as_css()))


def test_rgb():
    assert palette.rgb("#E69F00") == (230, 159, 0)
