"""A confusion matrix: cells with numbers for a few classes, a map of shades for up to a hundred."""

import math
from collections.abc import Sequence
from typing import Final

from launcher import png
from launcher.report.palette import LEVELS, LIGHT, rgb
from launcher.report.words import short, text, width

NUMBERED: Final = 25
"""Classes, at most, whose cells have numbers."""
_CELL, _LETTER, _MOST_LETTERS = 38, 7.3, 16
_LISTED: Final = 15

Counts = Sequence[Sequence[int]]


def matrix(counts: Counts, classes: Sequence[str]) -> str:
    """The matrix as HTML. Rows are the true classes, columns the predicted ones; the shade goes
    with the root of a cell's share of its row, so that rare mistakes are seen."""
    if len(classes) <= NUMBERED:
        return _numbered(counts, classes)
    return f"{_heat(counts)}<h3>Most frequent mistakes</h3>{_list(counts, classes)}"


def level(count: int, of: int) -> int:
    """The shade of a cell, from 0 (empty) to LEVELS."""
    return math.ceil(LEVELS * math.sqrt(count / of)) if count else 0


def _numbered(counts: Counts, classes: Sequence[str]) -> str:
    names = [short(name, _MOST_LETTERS) for name in classes]
    longest = max(width(name, _LETTER) for name in names)
    left = 14 + longest
    top = 26 + longest * 0.72  # slanted
    side = _CELL * len(classes)
    wide, high = left + side + top * 0.8, top + side + 4
    drawn = []
    for row, values in enumerate(counts):
        y = top + row * _CELL
        drawn.append(f"<text class=end x='{left - 8:.0f}' y='{y + _CELL / 2 + 4:.0f}'>"
                     f"{text(names[row])}</text>")  # fmt: skip
        of = sum(values)
        for column, count in enumerate(values):
            x = left + column * _CELL
            shade = f"{'s1' if row == column else 's2'}-{level(count, of)}"
            said = text(f"{classes[row]} taken for {classes[column]}: {count:,}")
            drawn.append(f"<g class={shade}><rect x='{x:.0f}' y='{y:.0f}' width='{_CELL}' "
                         f"height='{_CELL}'><title>{said}</title></rect>")  # fmt: skip
            if count:
                drawn.append(f"<text class='cell mid' x='{x + _CELL / 2:.0f}' "
                             f"y='{y + _CELL / 2 + 4:.0f}'>{_brief(count)}</text>")  # fmt: skip
            drawn.append("</g>")
    for column, name in enumerate(names):
        x, y = left + (column + 0.5) * _CELL, top - 8
        place = f"x='{x:.0f}' y='{y:.0f}' transform='rotate(-45 {x:.0f} {y:.0f})'"
        drawn.append(f"<text {place}>{text(name)}</text>")
    sizes = f"--most:{wide * 1.15:.0f}px;--least:{min(wide * 0.7, 760):.0f}px"
    label = f"Confusion matrix of {len(classes)} classes"
    return (
        f"<div class=wide><svg class=matrix style='{sizes}' viewBox='0 0 {wide:.0f} "
        f"{high:.0f}' role=img aria-label='{label}'>{''.join(drawn)}</svg></div>"
    )


def _brief(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.3g}k"


def _heat(counts: Counts) -> str:
    """A pixel a cell; its opacity is the shade, so that it fits a light and a dark ground."""
    pixels = bytearray()
    for row, values in enumerate(counts):
        of = sum(values)
        for column, count in enumerate(values):
            shade = 255 * level(count, of) // LEVELS
            pixels += rgb(LIGHT["s1" if row == column else "s2"]) + bytes([shade])
    picture = png.data_url(bytes(pixels), len(counts), len(counts), 4)
    label = f"Confusion matrix of {len(counts)} classes, true ones from the top"
    return f"<img class=heat alt='{label}' src='{picture}'>"


def _list(counts: Counts, classes: Sequence[str]) -> str:
    mistaken = sorted(
        (-count, row, column)
        for row, values in enumerate(counts)
        for column, count in enumerate(values)
        if count and row != column
    )
    if not mistaken:
        return "<p>There are none.</p>"
    items = [
        f"<li><b>{text(classes[row])}</b> taken for <b>{text(classes[column])}</b>: "
        f"{-count:,} of {sum(counts[row]):,}</li>"
        for count, row, column in mistaken[:_LISTED]
    ]
    return f"<ol>{''.join(items)}</ol>"
