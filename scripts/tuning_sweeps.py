"""Sweeps that try everything, one after the other: what a tuning is measured against."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuning import DEEPER, Tell
from tuning_windows import Bench, Lane, Model

from launcher.data import Batch, Drawn, Source
from launcher.loader import PREFETCH
from launcher.rng import Int64s


@dataclass(frozen=True)
class OneByOne:
    """A source in memory as one that workers can draw from: for a sweep, to see what they cost."""

    source: Source

    def __post_init__(self) -> None:
        assert not isinstance(self.source, Drawn), "workers can draw from it as it is"

    def __getitem__(self, index: Int64s) -> Batch:
        return self.source[index]

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, index: Int64s, seed: int, *words: int) -> Batch:
        """The samples as they are: nothing is drawn."""
        return self.source[index]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """As the source's."""
        return self.source.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """As the source's."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """As the source's."""
        return self.source.fingerprint


def exhaustive(
    bench: Bench, model: Model, workers: Sequence[int], tell: Tell
) -> list[tuple[int, int, float]]:
    """Training for an epoch with every number of workers and every prefetch, one after the other:
    what the tuner is measured against. Workers, prefetch and samples per second."""
    settings = [(0, PREFETCH)]
    settings += [(number, ahead) for number in workers if number for ahead in (PREFETCH, DEEPER)]
    plan, rows = bench.parts.plan, []
    for number, (some, ahead) in enumerate(settings):
        tell(f"an epoch with {some} workers, prefetch {ahead}", number / len(settings))
        lane = bench.lane(some, ahead)
        rate, _ = bench.window(lane, 0.0, model, most=plan.steps_per_epoch * plan.accumulation)
        rows.append((some, ahead, rate))
        bench.end(lane)
    return rows


def passes(bench: Bench, workers: Sequence[int], tell: Tell) -> list[tuple[Lane, float]]:
    """The classic sweep: an epoch of the loader alone for each number of workers, in seconds."""
    plan = bench.parts.plan
    rows = []
    for number in workers:
        tell(f"a pass with {number} workers", number / max(1, max(workers)))
        lane = bench.lane(number)
        began = time.perf_counter()
        rate, _ = bench.window(lane, 0.0, most=plan.steps_per_epoch * plan.accumulation)
        rows.append((lane, time.perf_counter() - began))
        lane.alone.append(rate)
        bench.end(lane)
    return rows
