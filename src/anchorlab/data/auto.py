"""The reader of `data=auto`: whatever layout and format lies in a folder."""

from pathlib import Path

from anchorlab.data.folder import FolderReader
from anchorlab.data.layout import Difficult, formats
from anchorlab.data.naming import AUTO
from anchorlab.signatures import checked


@checked
class AutoReader(FolderReader):
    """Reads what the recognisers make of a folder, a data.yaml or an annotation file.

    Args:
        format: one of `layout.formats()`, where a folder can be read in several ways; None: the only one that fits.
        difficult: of formats that mark boxes as difficult, as in `VocReader`.
        train, val, test, root: as in `FolderReader`.
    """

    def __init__(
        self,
        format: str | None = None,
        difficult: Difficult = "ignore",
        train: str | None = AUTO,
        val: str | None = AUTO,
        test: str | None = AUTO,
        *,
        root: str | Path,
    ):
        if format is not None and format not in formats():
            raise ValueError(f"data.reader.format={format!r} must be one of {', '.join(formats())}, or null")
        super().__init__(train, val, test, root=root)
        self.format = format
        self.difficult = difficult
