"""Lookup of the image that an annotation names: one rule for all names of a file, found on a sample of them.

A name stays inside the data set's folder whatever it says: an absolute path, a URL, `..` and a Windows path count as
so many parts, of which the last ones that lead to an image decide.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from anchorlab.data.headers import is_image
from anchorlab.data.tree import Tree, without_suffix

SAMPLE = 200
MOST_FOLDERS = 300
MOST_STRIPPED = 8
URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)

Spelling = Callable[[str], str]


class Rule(NamedTuple):
    """A name without its first `stripped` parts lies in `folder`, when both are spelt by `spelling`."""

    folder: str
    stripped: int
    spelling: Spelling

    def apply(self, parts: Sequence[str]) -> str:
        rest = "/".join(parts[self.stripped :] or parts[-1:])
        return self.spelling(f"{self.folder}/{rest}" if self.folder else rest)


def as_written(name: str) -> str:
    return name


def alike(name: str) -> str:
    """Without regard to capitals and to how accents are composed (a Mac composes them otherwise)."""
    return unicodedata.normalize("NFC", name).casefold()


def alike_stem(name: str) -> str:
    """Without regard to the suffix of an image either."""
    return alike(without_suffix(name) if is_image(name) else name)


class ImageNames:
    """Finds the images of one annotation file's names.

    Args:
        folders: where they may lie, relative to the tree's root, the likeliest first; all are tried on a sample.
        others_too: whether an image elsewhere is taken too, where exactly one has the name.
    """

    def __init__(self, tree: Tree, folders: Iterable[str], others_too: bool = True):
        self.tree = tree
        self.folders = list(dict.fromkeys(folders))[:MOST_FOLDERS]
        self.others_too = others_too
        self.missing: list[str] = []
        self._rule: Rule | None = None
        self._indices: dict[Spelling, dict[str, list[str]]] = {}
        self._by_name: dict[str, list[str]] | None = None

    def settle(self, names: Sequence[str]) -> None:
        """Choose the rule that finds most of a sample of `names`; of several the first, by fewest parts dropped."""
        step = max(1, len(names) // SAMPLE)
        sample = [parts_of(name) for name in names[::step]]
        best = 0
        for spelling in (as_written, alike, alike_stem):
            index = self._index(spelling)
            for stripped in range(min(MOST_STRIPPED, max(map(len, sample), default=1))):
                for folder in self.folders:
                    rule = Rule(folder, stripped, spelling)
                    hits = sum(len(index.get(rule.apply(parts), ())) == 1 for parts in sample)
                    if hits > best:
                        best, self._rule = hits, rule
            if best:
                return

    def find(self, name: str) -> Path | None:
        """The image's path; None, and the name kept in `missing`, where there is no such image, or more than one."""
        parts = parts_of(name)
        found = self._lookup(parts) if parts else None
        if found is None:
            self.missing.append(name)
            return None
        return self.tree.path(found)

    def tried(self) -> str:
        """The folders that were tried, for a sentence."""
        shown = [f"{folder}/" if folder else f"{self.tree.root.name}/" for folder in self.folders]
        return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")

    def _lookup(self, parts: Sequence[str]) -> str | None:
        if self._rule is not None:
            for spelling in dict.fromkeys((self._rule.spelling, alike, alike_stem)):
                found = self._index(spelling).get(self._rule._replace(spelling=spelling).apply(parts), ())
                if len(found) == 1:
                    return found[0]
            return None
        if not self.others_too:
            return None
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for image in self.tree.images:
                self._by_name[alike_stem(image.rpartition("/")[2])].append(image)
        found = self._by_name.get(alike_stem(parts[-1]), ())
        return found[0] if len(found) == 1 else None

    def _index(self, spelling: Spelling) -> dict[str, list[str]]:
        if spelling not in self._indices:
            index: dict[str, list[str]] = defaultdict(list)
            for image in self.tree.images:
                index[spelling(image)].append(image)
            self._indices[spelling] = index
        return self._indices[spelling]


def parts_of(name: str) -> list[str]:
    """The parts of a name in either system's spelling, without host, drive, `.` and what stands before a `..`."""
    plain = URL.sub("", name.strip()).split("?")[0] if URL.match(name.strip()) else name.strip()
    parts = [part for part in PureWindowsPath(plain).parts if part not in (".", "\\", "/") and not part.endswith(":\\")]
    parts = [part.strip("\\/") for part in parts]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return [part for part in parts if part and not re.fullmatch(r"[A-Za-z]:", part)]
