"""make site: builds without a warning, so that every page stands in its navigation and no link of it is broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anchorlab.exports import homes
from tests.browser import asked_of_the_network, headless, wait

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_repository_is_there(site):
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")]
    names = [page.relative_to(ROOT).as_posix().replace("README.md", "index.md") for page in pages]
    assert [name for name in names if not (site / name).with_suffix(".html").is_file()] == []
    assert (site / "docs" / "anchors.html").read_bytes() == (ROOT / "docs" / "anchors.html").read_bytes()


@pytest.mark.parametrize("package", ["anchorlab", "anchorlab.rpn"])
def test_api_has_every_public_name(site, package):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    assert [name for name, home in homes(package).items() if f'id="{home}.{name}"' not in pages] == []


def test_a_page_opened_from_the_disk_searches_without_a_network(site):
    with headless() as browser:
        browser.get((site / "docs" / "data.html").as_uri())
        wait(browser, "return document.querySelector('.md-search__input') !== null")
        browser.execute_script(
            "const box = document.querySelector('.md-search__input'); box.focus(); box.value = 'tiered NMS';"
            "for (const name of ['input', 'keyup']) box.dispatchEvent(new Event(name, { bubbles: true }));"
        )
        wait(browser, "return document.querySelector('.md-search-result__item') !== null")
        assert [url for url in asked_of_the_network(browser) if not url.startswith(("file:", "data:"))] == []


def test_search_finds_what_docstrings_say(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = [
        entry["location"] for entry in index["docs"] if "Assigns by IoU, found through the anchors" in entry["text"]
    ]
    assert any(location.startswith("api/anchorlab.rpn.html") for location in found)
