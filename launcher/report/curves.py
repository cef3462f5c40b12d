"""The curves of a run, from a metrics.jsonl of any length in bounded memory.

A series keeps at most 512 buckets of equally many neighbouring values. When they are full, each two
become one, so that a million lines cost no more than a thousand, and a spike is never lost: a
bucket knows its lowest and its highest value beside the mean.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

BUCKETS: Final = 256
"""Buckets of a long series, at least; at most twice as many."""
MOST_SERIES: Final = 64
_LARGEST: Final = 1e200  # an axis must reach beyond it; NaN is not smaller either


@dataclass(slots=True)
class Bucket:
    """Neighbouring values of a series."""

    first: float
    last: float
    """Steps."""
    count: int
    total: float
    low: float
    high: float

    @property
    def step(self) -> float:
        """The middle of its steps."""
        return (self.first + self.last) / 2

    @property
    def mean(self) -> float:
        """Of its values."""
        return self.total / self.count

    def joined(self, other: "Bucket") -> "Bucket":
        """This one and the one after it."""
        return Bucket(self.first, other.last, self.count + other.count, self.total + other.total,
                      min(self.low, other.low), max(self.high, other.high))  # fmt: skip


class Series:
    """One metric over the steps of a run."""

    def __init__(self) -> None:
        self.buckets: list[Bucket] = []
        self.missing = 0
        """Values that were not finite."""
        self.last: float | None = None
        """The last value; None when it was not finite, or when there was none."""
        self._size = 1  # values in a bucket

    def add(self, step: float, value: float | None) -> None:
        """The next value; None for one that was not finite."""
        self.last = value
        if value is None:
            self.missing += 1
            return
        new = Bucket(step, step, 1, value, value, value)
        if self.buckets and self.buckets[-1].count < self._size:
            self.buckets[-1] = self.buckets[-1].joined(new)
            return
        if len(self.buckets) == 2 * BUCKETS:
            pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
            self.buckets = [one.joined(other) for one, other in pairs]
            self._size *= 2
        self.buckets.append(new)

    @property
    def count(self) -> int:
        """Finite values."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def mean(self) -> float | None:
        """Of the finite values."""
        return sum(b.total for b in self.buckets) / self.count if self.buckets else None

    def smooth(self) -> list[tuple[float, float]]:
        """(step, value) of a moving average over a fifteenth of the curve; of a short one the
        values themselves."""
        reach = len(self.buckets) // 30
        found = []
        for place, bucket in enumerate(self.buckets):
            side = min(reach, place, len(self.buckets) - 1 - place)  # symmetric: no bend at an end
            near = self.buckets[place - side : place + side + 1]
            mean = sum(one.total for one in near) / sum(one.count for one in near)
            found.append((bucket.step, mean))
        return found


@dataclass(frozen=True)
class Curves:
    """What metrics.jsonl tells of a run."""

    series: dict[str, Series]
    """By metric: `train/...` and `test/...`, without those of single classes."""
    last: dict[str, Any]
    """The last line."""
    lines: int
    damaged: int
    """Lines that could not be read."""


def curves(lines: Iterable[bytes]) -> Curves:
    """From the lines of metrics.jsonl. A line that was cut by a crash, or damaged, is counted."""
    series: dict[str, Series] = {}
    last: dict[str, Any] = {}
    count = damaged = 0
    for line in lines:
        count += 1
        try:
            found = json.loads(line)
            step = found["step"] + 0
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += 1
            continue
        last = found
        for key, value in _values(found):
            if key not in series:
                if len(series) == MOST_SERIES:
                    continue
                series[key] = Series()
            series[key].add(step, value)
    return Curves(series, last, count, damaged)


def _values(line: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for key, value in line.items():
        if key.count("/") == 1 and key.startswith(("train/", "test/")):
            if value is None:
                yield key, None
            elif isinstance(value, int | float):
                yield key, float(value) if abs(value) < _LARGEST else None
