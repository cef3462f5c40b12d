"""The colours of a report, in light and in dark, and whether they can be told apart.

Contrast is that of WCAG 2.2, section 1.4.3: 4.5 is asked of text.
"""

from typing import Final

Theme = dict[str, str]

LIGHT: Final[Theme] = {
    "ground": "#ffffff", "raised": "#f5f6f8", "rule": "#d5d9e0", "ink": "#1b1f24",
    "quiet": "#57606b", "good": "#12703a", "bad": "#b3261e", "warn": "#8a5300",
    "s1": "#1f5fbf", "s2": "#b5480a", "s3": "#12703a", "s4": "#8a2f9e",
    "s5": "#a3174f", "s6": "#086f7d", "s7": "#6d5b00", "s8": "#4b4f9e",
}  # fmt: skip
DARK: Final[Theme] = {
    "ground": "#14171c", "raised": "#1d2128", "rule": "#363d47", "ink": "#e8ebef",
    "quiet": "#a5aeba", "good": "#62d394", "bad": "#ff938a", "warn": "#f0b65c",
    "s1": "#82b4ff", "s2": "#f5a35f", "s3": "#62d394", "s4": "#dd9af0",
    "s5": "#ff8fb5", "s6": "#5fcfdd", "s7": "#d8c04f", "s8": "#b0b4ff",
}  # fmt: skip
SERIES: Final = 8
"""Colours for curves."""
LEVELS: Final = 10
"""Shades of a cell in a confusion matrix, from none to full."""


def mixed(under: str, over: str, share: float) -> str:
    """A colour between two, as #rrggbb."""
    parts = [round(a + (b - a) * share) for a, b in zip(_rgb(under), _rgb(over), strict=True)]
    return "#" + "".join(f"{part:02x}" for part in parts)


def shade(theme: Theme, kind: str, level: int) -> tuple[str, str]:
    """Fill and ink of a matrix cell: `kind` is s1 (right) or s2 (mistaken), `level` from 0 to
    LEVELS. Of the two inks the one that can be read better."""
    fill = mixed(theme["ground"], theme[kind], 0.85 * level / LEVELS)
    return fill, max(("#000000", "#ffffff"), key=lambda ink: contrast(fill, ink))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> bytes:
    """`#rrggbb` as three bytes."""
    return bytes(_rgb(colour))


def _rgb(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in _rgb(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
