"""Reader of anchors.json: where a run lost recall, and what each of its anchor shapes contributed.

Training writes it after its last step (`analysis.attribution.AnchorReport.values`); runs without it are shown without.
"""

from pathlib import Path
from typing import Any

from anchorlab.errors import DamagedFile
from anchorlab.runs.reading import read_json

NAME = "anchors.json"
SCHEMA_VERSION = 1

SHARE = (int, float, type(None))
STAGE: dict[str, Any] = {"stage": str, "recall_50": SHARE, "recall_70": SHARE, "AR": SHARE}
SHAPE_KEYS = ("stride", "width", "height", "positives", "proposals", "matched", "AR_without")
SHAPE: dict[str, Any] = dict.fromkeys(SHAPE_KEYS, (int, float))
"""The keys of a row that are shown, and what they hold."""


def read_diagnosis(folder: str | Path) -> dict[str, Any] | None:
    """`images`, `budget`, `AR`, `funnel` (a list by stage) and `shapes` (a list) of a run; None where it kept none.

    Raises:
        DamagedFile: for a file that holds anything else, or comes from a newer AnchorLab.
    """
    path = Path(folder) / NAME
    try:
        content = read_json(path)
        if content["schema_version"] > SCHEMA_VERSION:
            raise ValueError(f"it has schema version {content['schema_version']}: update AnchorLab")
        return {
            "images": int(content["images"]),
            "budget": int(content["budget"]),
            "AR": float(content["AR"]),
            "funnel": [_checked(row, STAGE) for row in content["funnel"]],
            "shapes": [_checked(row, SHAPE) for row in content["shapes"]],
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}): delete it, the page does without") from error


def _checked(row: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    wrong = [key for key, kind in kinds.items() if not isinstance(row[key], kind)]
    if wrong:
        raise ValueError(f"{wrong[0]}={row[wrong[0]]!r}")
    return {key: row[key] for key in kinds}
