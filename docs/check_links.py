"""Link check of make lint: every link of a page leads to a file, and to a heading where it names one; asks no network.

Command: python docs/check_links.py [pages]; without pages, all that git knows. Exit code 1 where a link is broken.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|(?:href|src)=\"([^\"]+)\"")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def broken(pages: Iterable[Path]) -> Iterator[str]:
    """A line for each link that leads nowhere: its page, and the link as it is written."""
    for page in pages:
        for link in links_of(page):
            path, _, heading = link.partition("#")
            target = (page.parent / path).resolve() if path else page.resolve()
            if not target.exists():
                yield f"{page}: {link}: no such file"
            elif heading and target.suffix == ".md" and heading not in headings_of(target):
                yield f"{page}: {link}: no such heading"


def links_of(page: Path) -> Iterator[str]:
    """The links of a Markdown page or a notebook that stay on this disk; what stands in code is none."""
    for found in LINK.finditer(CODE.sub("", page.read_text(encoding="utf-8"))):
        link = found[1] or found[2]
        if not re.match(r"[a-z]+:", link):
            yield link


def headings_of(page: Path) -> set[str]:
    """The headings of a Markdown page, as links name them; the second of two alike has -1 behind it."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named: list[str] = []
    for heading in re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        named.append(f"{name}-{named.count(name)}" if name in named else name)
    return set(named)


def main(names: Sequence[str]) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pages = [Path(name) for name in names] or [ROOT / name for name in listed.stdout.splitlines()]
    found = list(broken(pages))
    print("\n".join([*found, f"{len(pages)} pages, {len(found)} broken links"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
