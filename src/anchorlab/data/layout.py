"""Where a data set keeps its splits and images: file names with `{split}` in them, found by what exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from anchorlab.data.sample import DataError
from anchorlab.signatures import checked

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


@checked
class LayoutReader:
    """What readers share whose images and annotations lie where a `Template` says; a format adds `read`.

    Args:
        images: image folder under `root`, e.g. "images/{split}".
        annotations: file or folder of annotations under `root`, e.g. "labels/{split}".
            With both None, the first of `templates` that exists; with one None, that of `undivided`.
        train, val, test: what replaces `{split}` for each split; None: there is no such split.
        root: the data set's folder; `~` is the home.
    """

    templates: ClassVar[tuple[Template, ...]]
    undivided: ClassVar[Template]

    def __init__(
        self,
        images: str | None = None,
        annotations: str | None = None,
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = "test",
        *,
        root: str | Path,
    ):
        self.root = Path(root).expanduser()
        self.images = images
        self.annotations = annotations
        self.names = {"train": train, "val": val, "test": test}
        self.categories: list[str] = []

    def splits(self) -> list[str]:
        return self.layout().splits()

    def layout(self) -> Layout:
        templates = self.templates
        if self.images is not None or self.annotations is not None:
            usual = self.undivided
            templates = (Template(self.images or usual.images, self.annotations or usual.annotations),)
        return find_layout(self.root, templates, self.names)

    def category_index(self, name: str) -> int:
        """The category's index; a name not met before is added."""
        if name not in self.categories:
            self.categories.append(name)
        return self.categories.index(name)


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
