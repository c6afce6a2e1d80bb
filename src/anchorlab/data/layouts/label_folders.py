"""Images and a text file for each, in the formats of KITTI, VisDrone and DOTA: told by the first rows of some."""

from collections.abc import Callable

from anchorlab.data.labels import Row, looks_like, partners_of, sample
from anchorlab.data.layout import Entries, Found, Recogniser, by_split
from anchorlab.data.layouts.yolo import part_of, text_files
from anchorlab.data.naming import Naming
from anchorlab.data.tree import Tree, parent_of


def recogniser(layout: str, format: str, entries: Entries, matches: Callable[[Row], bool]) -> Recogniser:
    """What recognises one such format."""

    def recognise(tree: Tree, naming: Naming) -> Found | None:
        texts = text_files(tree)
        looks = {name: looks_like(tree.path(name), matches) for name in sample(texts)}
        if not any(looks.values()) or sum(look is False for look in looks.values()) > len(looks) / 2:
            return None
        groups, left_over = by_split(tree.images, naming.of_folder)
        partners = partners_of(tree.images, texts)
        parts = {}
        for split, images in groups.items():
            if any(image in partners for image in images):
                parts[split] = part_of(tree, naming, split, images, partners, {})
            else:
                left_over += len(images)  # KITTI's test images have no labels
        where = f"{parent_of(next(iter(partners.values()), ''))}/*.txt"
        return Found(layout, format, entries, parts, where)

    return recognise
