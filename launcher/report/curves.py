"""The curves of a run, from a metrics.jsonl of any length in bounded memory.

A series keeps at most 512 buckets of equally many neighbouring values. When they are full, each two
become one, so that a million lines cost no more than a thousand, and a spike is never lost: a
bucket knows its lowest and its highest value beside the mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from launcher.records import record

BUCKETS: Final = 256
"""Buckets of a long series, at least; at most twice as many."""
MOST_SERIES: Final = 64
_LARGEST: Final = 1e200  # an axis must reach beyond it; NaN is not smaller either
_MOST_OTHERS: Final = 100_000
_METRICS: Final = ("train/", "test/", "raw/")


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

    def take(self, step: float, value: float) -> None:
        """One more value."""
        self.last = step
        self.count += 1
        self.total += value
        if value < self.low:
            self.low = value
        elif value > self.high:
            self.high = value

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
        if self.buckets and (newest := self.buckets[-1]).count < self._size:
            newest.take(step, value)
            return
        if len(self.buckets) == 2 * BUCKETS:
            pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
            self.buckets = [one.joined(other) for one, other in pairs]
            self._size *= 2
        self.buckets.append(Bucket(step, step, 1, value, value, value))

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
            side = min(reach, place)  # symmetric at the beginning, where curves are steep
            near = self.buckets[place - side : place + side + 1]
            mean = sum(one.total for one in near) / sum(one.count for one in near)
            found.append((bucket.step, mean))
        return found


@dataclass(frozen=True)
class Curves:
    """What metrics.jsonl tells of a run."""

    series: dict[str, Series]
    """By metric: `train/...`, `test/...` and, with an average of the weights, `raw/...`; without
    those of single classes."""
    last: dict[str, Any]
    """The last line."""
    lines: int
    damaged: int
    """Lines that are no record of a run."""
    first_damaged: int = 0
    """The number of the first of these."""


def curves(lines: Iterable[bytes]) -> Curves:
    """From the lines of metrics.jsonl. A line that was cut by a crash, or damaged, is counted."""
    series: dict[str, Series] = {}
    others: set[str] = set()  # keys that are no metric of the whole
    last: dict[str, Any] = {}
    count = damaged = first = 0
    for line in lines:
        count += 1
        found = record(line)
        if found is None:
            damaged, first = damaged + 1, first or count
            continue
        last, step = found, found["step"]
        for key, value in found.items():
            if key in others:
                continue
            if key not in series and not _begin(key, series, others):
                continue
            if value is None:
                series[key].add(step, None)
            else:
                series[key].add(step, float(value) if abs(value) < _LARGEST else None)
    return Curves({key: one for key, one in series.items() if one.count or one.missing}, last,
                  count, damaged, first)  # fmt: skip


def _begin(key: str, series: dict[str, Series], others: set[str]) -> bool:
    """A new series, if the key is that of a metric of the whole, and there is room."""
    if key.count("/") == 1 and key.startswith(_METRICS) and len(series) < MOST_SERIES:
        series[key] = Series()
        return True
    if len(others) < _MOST_OTHERS:
        others.add(key)
    return False
