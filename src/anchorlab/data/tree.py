"""Listing of a data set's folder, made once: images and other files by name, without what systems put there.

Names are relative to the root, with `/`, in a fixed order. Nothing is opened here.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from anchorlab.data.headers import is_image

JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
USUAL = ("images", "labels", "annotations", "JPEGImages", "Annotations", "train", "val", "valid", "test", "data")
"""Folders that are entered first: of two names for one folder, a link and itself, the usual one is kept."""


class Tree:
    """The files below `root`. Symbolic links are followed, each folder once, so that no circle holds anybody up."""

    def __init__(self, root: Path):
        self.root = root
        self.images: list[str] = []
        self.others: dict[str, list[str]] = defaultdict(list)
        """Names of all other files by their lower-case suffix, `.json`."""
        for name in sorted(self._files()):
            if is_image(name):
                self.images.append(name)
            else:
                self.others[PurePosixPath(name).suffix.lower()].append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def with_suffix(self, *suffixes: str) -> list[str]:
        return [name for suffix in suffixes for name in self.others.get(suffix, ())]

    def path(self, name: str) -> Path:
        return self.root / name

    @cached_property
    def image_set(self) -> frozenset[str]:
        return frozenset(self.images)

    @cached_property
    def image_folders(self) -> list[str]:
        """Folders that hold images directly, "" for the root itself, shallow ones first."""
        folders = {parent_of(name) for name in self.images}
        return sorted(folders, key=lambda folder: (folder.count("/") if folder else -1, folder))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(name for names in self.others.values() for name in names) | self.image_set

    def _files(self) -> Iterator[str]:
        seen = {os.path.realpath(self.root)}
        for folder, folders, files in os.walk(self.root, followlinks=True):
            prefix = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if prefix == "." else f"{prefix}/"
            entered = []
            for name in sorted(folders, key=lambda name: (name not in USUAL, name)):
                real = os.path.realpath(os.path.join(folder, name))
                if not is_junk(name) and real not in seen:
                    seen.add(real)
                    entered.append(name)
            folders[:] = entered
            yield from (prefix + name for name in files if not is_junk(name))


def is_junk(name: str) -> bool:
    """Hidden files and folders (`._x.jpg` of a Mac), thumbnails and the like."""
    return name.startswith(".") or name.lower() in JUNK


def parent_of(name: str) -> str:
    """The folder of a relative name, "" for the root."""
    return name.rpartition("/")[0]


def stem_of(name: str) -> str:
    """The last part of a relative name without its suffix."""
    last = name.rpartition("/")[2]
    stem, dot, _ = last.rpartition(".")
    return stem if dot and stem else last


def without_suffix(name: str) -> str:
    folder = parent_of(name)
    return f"{folder}/{stem_of(name)}" if folder else stem_of(name)
