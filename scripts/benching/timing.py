"""Columns checked to do the same work, then timed in windows that take turns."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benching.clock import Clock
from benching.columns import COLUMNS, missing, takes_workers
from benching.job import Count, Job


@dataclass
class Measured:
    """What was found about one column of a row."""

    rates: list[float] = field(default_factory=list)
    """Samples per second, one for each window."""
    workers: int = 0
    """Loader workers: of those tried, the best."""
    tried: dict[int, float] = field(default_factory=dict)
    """Samples per second of one window with so many workers."""
    samples: int = 0
    updates: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    """Of the check: counted by hooks on model and optimizer, and measured on test images."""

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Of the windows; of a single one, that one twice."""
        if len(self.rates) < 2:
            return self.rates[0], self.rates[0]
        first, _, third = statistics.quantiles(self.rates, n=4, method="inclusive")
        return first, third


class UnequalError(Exception):
    """Columns of a row that do not do the same: their times would say nothing."""


def measure(job: Job, candidates: Sequence[int]) -> tuple[dict[str, Measured], dict[str, str]]:
    """Every column of the job's row: checked, at its best number of workers, in turns.

    Also the columns that are left out, with the reason. Raises UnequalError.
    """
    left_out = dict(missing(job.row.columns, job.row.precision))
    names = [name for name in job.row.columns if name not in left_out]
    found = {name: check(job, name) for name in names}
    compare(job, found)
    for name in names:
        numbers = candidates if takes_workers(name, job) else [0]
        found[name].workers = numbers[0]
        if len(numbers) > 1:
            tried = {number: window(job, name, number) for number in numbers}
            found[name].tried, found[name].workers = tried, max(tried, key=lambda n: tried[n])
    for _ in range(job.row.windows):
        for name in names:
            found[name].rates.append(window(job, name, found[name].workers))
    return found, left_out


def window(job: Job, name: str, workers: int) -> float:
    """Samples per second of one window."""
    clock = Clock(job.row.warmup, job.row.steps, job.device)
    COLUMNS[name](job, workers, clock, None)
    return job.row.steps * job.row.batch_size / clock.seconds


def check(job: Job, name: str) -> Measured:
    """Train for the row's `check` updates from the same weights, and see what came of it."""
    job.counting = Count()
    clock = Clock(0, job.row.check, job.device)
    try:
        order = job.order(job.row.check)
        workers = 1 if job.from_files else 0
        model = COLUMNS[name](job, workers, clock, order)
        counted = job.counting
    finally:
        job.counting = None
    if name == "launcher" and job.device.type == "cuda":
        # Steps with hooks that count are not recorded, and recorded ones are what will be timed.
        model = COLUMNS[name](job, workers, Clock(0, job.row.check, job.device), order)
    loss, accuracy = job.score(model)
    return Measured(samples=counted.samples, updates=counted.updates, accuracy=accuracy, loss=loss)


def compare(job: Job, found: dict[str, Measured]) -> None:
    """Raises UnequalError unless all did as many updates on as many samples, and as well."""
    updates, samples = job.row.check, job.row.check * job.row.batch_size
    for name, column in found.items():
        if (column.updates, column.samples) != (updates, samples):
            raise UnequalError(
                f"{job.row.name}: {name} did {column.updates} updates on {column.samples} samples, "
                f"where {updates} on {samples} were asked for."
            )
    spread = _spread(column.accuracy for column in found.values())
    if spread > job.row.band:
        all_of_them = ", ".join(f"{name} {one.accuracy:.1%}" for name, one in found.items())
        raise UnequalError(
            f"{job.row.name}: after {updates} updates the accuracies differ by {spread:.1%}, more "
            f"than {job.row.band:.0%}: {all_of_them}."
        )


def _spread(values: Iterable[float]) -> float:
    every = list(values)
    return max(every) - min(every)
