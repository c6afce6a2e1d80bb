"""Palette of every picture and page: Okabe and Ito's colours, which the colour-blind can tell apart, and what each is
for. It draws nothing and imports nothing, so that a page needs no matplotlib.
"""

ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"

TRUTH, FOUND, MISSED, PLAIN = ORANGE, BLUE, VERMILION, GREY
"""A ground-truth box, a proposal or anchor that found one, a box that none found, every other proposal."""

IGNORED = PURPLE
"""An ignored region."""

LEVELS = (BLUE, GREEN, PURPLE, YELLOW, SKY_BLUE, VERMILION)
"""The levels of a feature pyramid, finest first; also the curves of a chart, one after another."""

INK, SOFT_LINE, PAPER = "#222222", "#CCCCCC", "#E8EEF2"
"""Text, and the lines and heads of a table."""

BLUE_TEXT, ORANGE_TEXT = (BLUE, SKY_BLUE), ("#B84D00", "#F0A35E")
"""Two sides that are compared, A and B; on white paper and on a dark page, each with a contrast of 4.5 to 1 there."""

ROWS = {
    "light": (GREEN, PURPLE, "#8C6D00", "#1A1D21", "#2F9FD0", "#7A4FB5"),
    "dark": ("#2CC79A", "#E29CC4", "#E0C040", "#E8EAED", "#8CC9FF", "#B79CF0"),
}
"""The rows of a comparison beside A and B, one after another, on white paper and on a dark page: the colours above,
darker or lighter where they would be too near to the page."""

SHADES = ("#440154", "#46327E", "#365C8D", "#277F8E", "#1FA187", "#4AC16D", "#A0DA39")
"""From low to high, on a dark page: viridis without its ends, which are too near to the page; reversed on paper."""


def rgb(colour: str) -> tuple[int, int, int]:
    """A colour's red, green and blue, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def as_css() -> str:
    """The palette for a page with a light and a dark theme, as the custom properties --truth-box, --a and so on."""
    boxes = {"truth": TRUTH, "found": FOUND, "missed": MISSED, "plain": PLAIN}
    both = "".join(f" --{name}-box: {colour};" for name, colour in boxes.items())
    light, dark = (f" --a: {a}; --b: {b};" for a, b in zip(BLUE_TEXT, ORANGE_TEXT, strict=True))
    return f':root {{{both}{light} }}\n:root[data-theme="dark"] {{{dark} }}\n'
