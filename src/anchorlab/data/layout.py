"""Where a data set keeps its splits and images: file names with `{split}` in them, found by what exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from anchorlab.data.sample import DataError

SPLIT = "{split}"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Template(NamedTuple):
    """The image folder and the annotations (a file, or a folder of files), relative to the data set's root.

    `{split}` in `annotations` stands for a split's own name; without it the data set is not divided.
    """

    images: str
    annotations: str

    def __str__(self) -> str:
        return f"{self.images}/ with {self.annotations}"


@dataclass(frozen=True)
class Layout:
    """One template on disk; `names` has the word that replaces `{split}` for each split, None: no split."""

    root: Path
    template: Template
    names: Mapping[str, str | None]

    def splits(self) -> list[str]:
        """The splits that exist, an undivided data set being "train" alone."""
        splits = self.names if SPLIT in self.template.annotations else ["train"]
        return [split for split in splits if self.names[split] is not None and self.annotations(split).exists()]

    def images(self, split: str) -> Path:
        return self._path(self.template.images, split)

    def annotations(self, split: str) -> Path:
        return self._path(self.template.annotations, split)

    def _path(self, template: str, split: str) -> Path:
        return self.root / template.replace(SPLIT, self.names[split] or split)


def find_layout(root: Path, templates: Sequence[Template], names: Mapping[str, str | None]) -> Layout:
    """The first template of which some split exists; `DataError` names what was looked for."""
    if not root.is_dir():
        raise DataError(f"data.root={root} is not a folder: name the one that holds the data set")
    for template in templates:
        layout = Layout(root, template, names)
        if layout.splits():
            return layout
    looked_for = ", ".join(map(str, templates))
    words = ", ".join(name for name in names.values() if name is not None)
    raise DataError(
        f"data.root={root} holds none of these: {looked_for} (where {SPLIT} is one of {words}); "
        "set data.reader.images and data.reader.annotations to where they are"
    )


def list_images(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted; `DataError` where there are none."""
    if not folder.is_dir():
        raise DataError(f"there is no image folder {folder}: set data.reader.images")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        folders = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        hint = f"; if its folders {folders} are splits, name them by data.reader.train, val and test"
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{folder} holds no image ({kinds}): set data.reader.images{hint if folders else ''}")
    return images
