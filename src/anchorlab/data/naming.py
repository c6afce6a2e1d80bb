"""Split names: `instances_val2017`, `Validation`, `minitrain` -> train, val, test, or none of them."""

import re
from collections.abc import Iterable, Mapping

from anchorlab.data.sample import SPLITS

WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing", "testdev", "tst"),
}
BOTH = ("trainval", "train_val", "trainvalidation")
LEFT_OUT = "left out"
"""What `Naming.of` says of a split that the settings say there is none of."""
AUTO = "auto"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Naming:
    """The words of each split: the usual ones, or the one that a setting gives.

    Args:
        names: for each of train, val and test "auto", the data set's own word, or None where it is to count as not
            there.
    """

    def __init__(self, names: Mapping[str, str | None] | None = None):
        self.names = dict.fromkeys(SPLITS, AUTO) | dict(names or {})

    def word(self, split: str) -> str | None:
        """What stands for `{split}` in a setting; None: there is no such split."""
        word = self.names[split]
        return split if word == AUTO else word

    def of(self, name: str) -> str | None:
        """The split that one part of a path names; None: it names none; `LEFT_OUT`: one that is not wanted."""
        plain = name.lower()
        for split, word in self.names.items():
            if word not in (None, AUTO) and re.search(rf"(?<![a-z]){re.escape(str(word).lower())}(?![a-z])", plain):
                return split
        found = usual_split(name)
        if found is None:
            return None
        return found if self.names[found] == AUTO else LEFT_OUT

    def of_path(self, name: str) -> str | None:
        """The split of a relative name: by its nearest part that names one, the file's own stem first."""
        parts = name.split("/")
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
        return self.of_parts(reversed(parts))

    def of_folder(self, name: str) -> str | None:
        """The split of the folders that a relative name lies in, the nearest first."""
        return self.of_parts(reversed(name.split("/")[:-1]))

    def of_parts(self, parts: Iterable[str]) -> str | None:
        return next((split for split in map(self.of, parts) if split is not None), None)


class Undivided(Naming):
    """No name speaks of a split."""

    def of(self, name: str) -> str | None:
        return None


def is_trainval(name: str) -> bool:
    """Whether a name speaks of training and validation together."""
    return re.sub(r"\d+$", "", name.lower()) in BOTH


def usual_split(name: str) -> str | None:
    """By the words in a name, whatever its capitals, years and separators; `trainval` counts as train."""
    words = [word for word in re.split(r"[^a-z]+", CAMEL.sub("_", name).lower()) if word]
    for word in words:
        if word in BOTH or word.endswith("train"):
            return "train"
        for split, usual in WORDS.items():
            if word in usual:
                return split
    return None
