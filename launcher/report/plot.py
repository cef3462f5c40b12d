"""Curves as SVG: an axis of steps, an axis of values, the smooth curve and faintly what was noisy.

A chart is 400 units wide, so that its text has its size on a phone and in a column of a desktop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from launcher.report.curves import Series
from launcher.report.words import brief, metric, text

WIDTH: Final = 400
HEIGHT: Final = 210
_TOP, _RIGHT, _BOTTOM = 10, 14, 26
_LETTER: Final = 6.7  # width of a digit at 12 units
_DOTTED: Final = 20  # of so few values each one gets a dot
_SMOOTHED: Final = 40  # from so many on a curve is smoothed

Kind = Literal["number", "percent", "log"]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    series: Series
    colour: int = 1
    """1 to 8."""

    @property
    def smoothed(self) -> bool:
        """Whether there are so many values that single ones would hide the curve."""
        return len(self.series.buckets) >= _SMOOTHED

    @property
    def points(self) -> list[tuple[float, float]]:
        """(step, value) of the curve."""
        if self.smoothed:
            return self.series.smooth()
        return [(bucket.step, bucket.mean) for bucket in self.series.buckets]


@dataclass(frozen=True)
class Axis:
    """From values to places."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis, at most so many."""
        if not self.log:
            return round_values(self.low, self.high, most)
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [f * 10.0**ten for ten in tens for f in factors]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                return found
        return found[:: math.ceil(len(found) / most)]


def round_values(low: float, high: float, most: int) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, from low to high."""
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = size * factor
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [n * step for n in range(first, last + 1)]
    return [low]


def chart(
    title: str, lines: Sequence[Line], *, kind: Kind = "number", from_zero: bool = False,
    marks: Sequence[float] = (), end: float = 0, bare: bool = False,
) -> str:  # fmt: skip
    """A figure: title, legend with the last values, curves. Curves without a value are named only.

    `log` uses a logarithmic axis where the values ask for it. `marks` are steps at which the run
    was continued; `end` is the last step of the axis, if the curves end before; `bare` leaves out
    what was noisy, where many curves lie over one another.
    """
    shown = [line for line in lines if line.series.buckets]
    legend = "".join(_key(line, kind) for line in lines)
    head = f"<figcaption><b>{text(title)}</b><span class=keys>{legend}</span></figcaption>"
    if not shown:
        return f"<figure class=chart>{head}<p class=quiet>No finite value.</p></figure>"
    y = _values_axis(_extremes(shown, bare), kind, from_zero)
    ticks = y.ticks(5)
    labels = [tick_label(value, kind, ticks) for value in ticks]
    left = 10 + max((len(label) for label in labels), default=1) * _LETTER
    x = _steps_axis(shown, left, end)
    inside = [_grid(x, y, ticks, labels), _marks(x, marks)]
    inside += [_curve(line, x, y, bare) for line in shown]
    said = "; ".join(f"{line.name} ends at {metric(line.name, line.series.last)}" for line in shown)
    many = " many" if bare else ""
    return (
        f"<figure class='chart{many}'>{head}<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img "
        f"aria-label='{text(f'{title}: {said}')}'>{''.join(inside)}</svg></figure>"
    )


def tick_label(value: float, kind: Kind, ticks: Sequence[float] = ()) -> str:
    """A tick in a few letters, with as many decimals as its neighbours ask for."""
    gap = min((b - a for a, b in pairwise(ticks)), default=0.0)
    if kind == "percent":
        return f"{100 * value:.{_decimals(100 * gap)}f} %"
    size, largest = abs(value), max(map(abs, ticks), default=abs(value))
    if value == 0:
        return "0"
    if largest >= 1e4 or largest < 1e-3 or kind == "log":
        for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if unit <= size < 1000 * unit and largest >= 1e4:
                return f"{value / unit:.4g}{letter}"
        return brief(value)
    return f"{value:.{_decimals(gap)}f}"


def _decimals(gap: float) -> int:
    return max(0, -math.floor(math.log10(gap) + 1e-9)) if gap > 0 else 0


def _key(line: Line, kind: Kind) -> str:
    last = line.series.last
    value = metric("accuracy" if kind == "percent" else line.name, last)
    lost = (
        f" ({line.series.missing:,} not finite)" if line.series.missing and last is not None else ""
    )
    name = f"{text(line.name)} " if line.name else ""
    return f"<span class='key c{line.colour}'>{name}{value}{lost}</span>"


def _extremes(lines: Sequence[Line], bare: bool) -> tuple[float, float]:
    """The lowest and the highest value that is drawn."""
    if bare:
        values = [value for line in lines for _, value in line.points]
        return min(values), max(values)
    buckets = [bucket for line in lines for bucket in line.series.buckets]
    return min(bucket.low for bucket in buckets), max(bucket.high for bucket in buckets)


def _values_axis(extremes: tuple[float, float], kind: Kind, from_zero: bool) -> Axis:
    low, high = extremes
    log = kind == "log" and low > 0 and high / low > 50
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        low = min(low, 0.0) if from_zero else low
        room = 0.06 * (high - low) or abs(high) * 0.1 or 0.01
        high += room
        low = low if from_zero and low == 0 else low - room
        if kind == "percent":
            low, high = max(low, 0.0), min(high, 1.0)
            if high - low < 1e-9:
                low, high = max(0.0, low - 0.01), min(1.0, high + 0.01)
    return Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)


def _steps_axis(lines: Sequence[Line], left: float, end: float) -> Axis:
    first = min(line.series.buckets[0].first for line in lines)
    last = max(end, *(line.series.buckets[-1].last for line in lines))
    first = 0.0 if first < 0.5 * last or first == last else first
    last = max(last, first + 1)
    return Axis(first, last, left, WIDTH - _RIGHT)


def _grid(x: Axis, y: Axis, ticks: Sequence[float], labels: Sequence[str]) -> str:
    found = []
    for value, label in zip(ticks, labels, strict=True):
        place = y.at(value)
        found.append(
            f"<path class=grid d='M{x.begin:.1f} {place:.1f}H{x.end:.1f}'/>"
            f"<text x='{x.begin - 6:.1f}' y='{place + 4:.1f}' class=end>{label}</text>"
        )
    steps = [value for value in x.ticks(5) if value == int(value)]  # there is no half step
    for value in steps:
        place, label = x.at(value), tick_label(value, "number", steps)
        near = place + len(label) * _LETTER / 2 > WIDTH
        kind, place = ("end", float(WIDTH)) if near else ("mid", place)
        found.append(f"<text x='{place:.1f}' y='{HEIGHT - 8}' class={kind}>{label}</text>")
    return "".join(found)


def _marks(x: Axis, marks: Sequence[float]) -> str:
    places = [x.at(step) for step in marks if x.low < step < x.high]
    return "".join(
        f"<path class=mark d='M{place:.1f} {_TOP}V{HEIGHT - _BOTTOM}'/>" for place in places
    )


def _curve(line: Line, x: Axis, y: Axis, bare: bool) -> str:
    points = [(x.at(step), y.at(value)) for step, value in line.points]
    noise = _noise(line, x, y) if line.smoothed and not bare else ""
    drawn = f"{noise}<path class='line c{line.colour}' d='{_path(points)}'/>"
    if len(points) > _DOTTED:
        return drawn
    dots = (f"<circle class='dot c{line.colour}' cx='{a:.1f}' cy='{b:.1f}' r='2.6'/>"
            for a, b in points)  # fmt: skip
    return drawn + "".join(dots)


def _noise(line: Line, x: Axis, y: Axis) -> str:
    """What the smooth curve leaves out: the values themselves; of many from the lowest to the
    highest."""
    buckets = line.series.buckets
    if all(bucket.count == 1 for bucket in buckets):
        raw = _path([(x.at(b.step), y.at(b.mean)) for b in buckets])
        return f"<path class='raw c{line.colour}' d='{raw}'/>"
    there = [(x.at(b.step), y.at(b.high)) for b in buckets]
    back = [(x.at(b.step), y.at(b.low)) for b in reversed(buckets)]
    return f"<path class='band c{line.colour}' d='{_path([*there, *back])}Z'/>"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
