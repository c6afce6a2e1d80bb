"""Text of strangers, made safe to show: on a terminal, in a table for spreadsheets, in Markdown; changes no meaning."""

import html
import re

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal (escape codes), turns the direction of text around, or is no text: all but tab and newline."""

FORMULA = ("=", "+", "-", "@", "\t")
"""What a spreadsheet takes for the start of a formula."""


def printable(text: str) -> str:
    r"""The text with everything that steers a terminal written out: the escape code is shown as `\x1b`."""
    return CONTROLS.sub(lambda found: _written_out(found.group()), text)


def for_spreadsheet(text: str) -> str:
    """A cell of a CSV file: what a spreadsheet would compute stands behind an apostrophe, numbers stay as they are."""
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def for_markdown(text: str) -> str:
    """Text on one line that Markdown shows letter by letter."""
    plain = html.escape(" ".join(printable(text).split()), quote=False)
    for letter in "\\|`*[]":
        plain = plain.replace(letter, f"\\{letter}")
    return plain


def _written_out(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
