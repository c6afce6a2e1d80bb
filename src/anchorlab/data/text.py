"""Text and numbers as tools write them: any usual encoding, numbers and flags in quotes; the rest is refused."""

import codecs
import math
import re
from pathlib import Path

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
TRUE, FALSE = ("true", "yes", "y", "t"), ("false", "no", "n", "f", "", "none", "null", "unspecified", "unknown")
KANA = re.compile("[ぁ-ヿｦ-ﾟ]")


def read_text(path: Path) -> str:
    """The file's text, of whatever encoding; `OSError` as the system gives it."""
    return decode_text(path.read_bytes())


def read_lines(path: Path) -> list[str]:
    """The file's lines without the blanks around them, empty ones too, so that a line keeps its number."""
    return [line.strip() for line in read_text(path).splitlines()]


def decode_text(data: bytes) -> str:
    """Bytes -> text: by their mark, else UTF-8, else the likeliest of UTF-16, GBK, Shift-JIS, Latin-1."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return data.decode(name, "replace")
    if b"\0" in data[:200]:
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "replace")
    for name in ("utf-8", _older_encoding(data)):
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _older_encoding(data: bytes) -> str:
    """Single bytes above 127 are Latin-1 (in `véhicule`), pairs are GBK or, where kana come out, Shift-JIS."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    if all(len(run) == 1 for run in runs):
        return "shift_jis" if _decodes(data, "shift_jis") and KANA.search(data.decode("shift_jis")) else "latin-1"
    if _decodes(data, "gb2312"):
        return "gb2312"
    if _decodes(data, "shift_jis") and KANA.search(data.decode("shift_jis")):
        return "shift_jis"
    return "gb18030" if _decodes(data, "gb18030") else "latin-1"


def _decodes(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def as_number(value: object) -> float:
    """A number, also where it is written in quotes; `ValueError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def as_side(value: object) -> int | None:
    """A side of an image in whole pixels; None where it is no positive number (0, -1 and "unknown" are in use)."""
    try:
        side = as_number(value)
    except ValueError:
        return None
    return round(side) if math.isfinite(side) and side >= 1 else None


def as_flag(value: object) -> bool:
    """1, true, yes and their opposites, in quotes too; nothing and "unspecified" are false. `ValueError` for others."""
    if value is None or isinstance(value, bool):
        return bool(value)
    word = str(value).strip().lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    number = float(word)
    if number not in (0, 1):
        raise ValueError(f"{value!r} is neither 0 nor 1")
    return bool(number)
