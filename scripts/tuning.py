"""How many loader processes: rounds of interleaved windows that drop the losers.

The figure that counts is samples per second of training, with the model taking every micro-batch:
on a CPU model and workers share the cores, so that a loader's rate alone says little. In every turn
each candidate has one window, so that what else the machine does meets all; candidates are compared
turn by turn. Each round doubles the windows and drops who is clearly slower. The answer is the
fewest workers within 3 % of the best.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tuning_windows import Bench, Lane, Model, fits

from launcher.loader import PREFETCH

TIE = 0.03
"""Rates that differ by less are as good as equal: then fewer workers are better."""
WAITING = 0.05
"""Share of the time waiting for data above which a loader does not keep up."""
NOISE = 0.1
"""By how much more training can seem faster than the model alone on a machine without other work.
"""
ROUNDS, TURNS = 3, 3
DEEPER = 2 * PREFETCH
# Until which share of the time a part of the tuning may begin something new.
SEARCH, PREFETCHING, THREADS = 0.75, 0.9, 1.0
_LEAST_WINDOW, _ALONE_WINDOW = 0.1, 0.3
"""Seconds: the shortest windows, and those of a candidate that has no rival."""

Tell = Callable[[str, float], None]
"""Progress: what is done now, and the share of the time that is over."""


@dataclass
class Found:
    """What a tuning measured and decided."""

    lanes: list[Lane]
    chosen: Lane
    short: dict[int, str]
    """Why there was no shared memory for some numbers of workers."""
    model: list[float] = field(default_factory=list)
    """Samples per second of the model alone."""
    prefetch: int = PREFETCH
    deeper: float | None = None
    """Training with twice the prefetch, as a share of training without."""
    threads: tuple[int, float] | None = None
    """Another number of threads, and training with it as a share of training without."""
    seconds: float = 0.0
    """That the tuning took."""

    @property
    def waits(self) -> float:
        """Share of the time that training waits for data, with the answer."""
        return statistics.median(self.chosen.waits)

    @property
    def contradicts_itself(self) -> bool:
        """Whether training was faster than the model alone, which is less work, or as fast though
        it waited for data: then other work on the machine was measured."""
        share = statistics.median(self.chosen.training) / statistics.median(self.model)
        return share > 1 + NOISE or (share >= 1 and not self.keeps_up)

    @property
    def keeps_up(self) -> bool:
        """Whether training practically never waits for data."""
        return self.waits <= WAITING


class Clock:
    """The time that a tuning has: the main process's counts, and all get the same answers."""

    def __init__(self, bench: Bench, seconds: float, tell: Tell) -> None:
        self._bench, self._tell = bench, tell
        self.seconds = seconds
        self.began = time.monotonic()

    def over(self, share: float, needed: float = 0.0) -> bool:
        """Whether so many seconds more would end after a share of the time. A collective."""
        late = time.monotonic() - self.began + needed > share * self.seconds
        return self._bench.total(float(late and self._bench.world.is_main)) > 0

    def tell(self, words: str) -> None:
        """Show what is done now."""
        self._tell(words, min(1.0, (time.monotonic() - self.began) / self.seconds))

    def turns(self, share: float, most: int = TURNS, first: bool = True) -> Iterator[int]:
        """At most so many turns, none that would, by the last one's time, end too late; `first`:
        the first one in any case."""
        last = 0.0
        for turn in range(most):
            if (turn or not first) and self.over(share, last):
                return
            began = time.monotonic()
            yield turn
            last = time.monotonic() - began


def candidates(most: int) -> list[int]:
    """0, 1, 2, 4 ... up to `most`, which is one of them."""
    found = [0, *(1 << power for power in range(most.bit_length()) if 1 << power <= most), most]
    return sorted(set(found))


def tune(bench: Bench, model: Model, workers: Sequence[int], seconds: float, tell: Tell) -> Found:
    """The best of some numbers of workers, in about so many seconds; at least one turn is done."""
    clock = Clock(bench, seconds, tell)
    able, short = [], {}
    for number in workers:
        clock.tell(f"starting {number} workers")
        lane = fits(bench, number)
        if isinstance(lane, Lane):
            able.append(lane)
        else:
            short[number] = lane
    found = Found(able, able[0], short)
    window = _search(bench, model, found, clock)
    found.chosen = choice([lane for lane in able if not lane.out])
    if found.chosen.workers and len(able) > 1:
        _try_prefetch(bench, model, found, clock, window)
        _try_threads(bench, model, found, clock, window)
    for lane in able:
        bench.end(lane)
    found.seconds = time.monotonic() - clock.began
    return found


def _search(bench: Bench, model: Model, found: Found, clock: Clock) -> float:
    """Rounds until one candidate or no time is left; the length of the last windows."""
    several = len(found.lanes) > 1
    rounds = ROUNDS if several else 1
    windows = TURNS * ((len(found.lanes) + 1) * ((1 << rounds) - 1) + len(found.lanes))
    window = max(_LEAST_WINDOW, clock.seconds * SEARCH * 0.9 / windows)
    window = window if several else min(_ALONE_WINDOW, window)
    for number in range(rounds):
        alive = [lane for lane in found.lanes if not lane.out]
        for turn in clock.turns(SEARCH, first=number == 0):
            clock.tell(f"{', '.join(str(lane.workers) for lane in alive)} workers")
            found.model.append(bench.consume(window, model))
            for lane in alive if turn % 2 == 0 else alive[::-1]:
                if number == 0:
                    bench.load(lane, window)
                bench.train(lane, window, model)
        drop(alive)
        if several and sum(not lane.out for lane in alive) == 1:
            break
        if number + 1 < rounds and not clock.over(SEARCH):
            window *= 2
    return window


def ratios(lane: Lane, other: Lane) -> list[float]:
    """Training with one as a share of training with the other, turn by turn."""
    return [mine / its for mine, its in zip(lane.training, other.training, strict=False)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile, of few values too."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def best(lanes: Sequence[Lane]) -> Lane:
    """The one that trains fastest."""
    return max(lanes, key=lambda lane: statistics.median(lane.training))


def drop(alive: Sequence[Lane]) -> None:
    """Mark who is clearly slower than the best by more than a tie: in three turns of four, and in
    the middle of all, which is what is said of it."""
    winner = best(alive)
    most = statistics.median(winner.training)
    for lane in alive:
        share = statistics.median(lane.training) / most
        if quartiles(ratios(lane, winner))[2] < 1 - TIE and share < 1 - TIE:
            lane.out = f"{1 - share:.0%} slower than {winner.workers}"


def choice(alive: Sequence[Lane]) -> Lane:
    """The fewest workers that are as good as the best, turn by turn and in the middle of all."""
    winner = best(alive)
    most = statistics.median(winner.training)
    good = [
        lane for lane in alive
        if statistics.median(ratios(lane, winner)) >= 1 - TIE
        and statistics.median(lane.training) >= (1 - TIE) * most
    ]  # fmt: skip
    return min(good or [winner], key=lambda lane: lane.workers)


def _try_prefetch(bench: Bench, model: Model, found: Found, clock: Clock, window: float) -> None:
    """Twice as many micro-batches ahead, kept if that is clearly better."""
    if clock.over(PREFETCHING, 4 * window):
        return
    clock.tell(f"prefetch {DEEPER} with {found.chosen.workers} workers")
    deeper = fits(bench, found.chosen.workers, DEEPER)
    if isinstance(deeper, str):
        return
    shares = []
    for _ in clock.turns(PREFETCHING):
        plain = bench.window(found.chosen, window, model)[0]
        bench.train(deeper, window, model)
        shares.append(deeper.training[-1] / plain)
    found.deeper = statistics.median(shares)
    if len(shares) > 1 and quartiles(shares)[0] > 1 + TIE:
        found.prefetch = DEEPER
        found.chosen.waits[:] = deeper.waits
    bench.end(deeper)


def _try_threads(bench: Bench, model: Model, found: Found, clock: Clock, window: float) -> None:
    """On a CPU, as many threads as the workers leave cores: a trial for an advice."""
    now = bench.world.threads
    threads = max(found.lanes[-1].workers, now) - found.chosen.workers
    if bench.world.device.type != "cpu" or threads < 1 or threads == now:
        return
    shares = []
    try:
        for _ in clock.turns(THREADS, first=False):
            clock.tell(f"{threads} threads beside {found.chosen.workers} workers")
            plain = bench.window(found.chosen, window, model)[0]
            torch.set_num_threads(threads)
            shares.append(bench.window(found.chosen, window, model)[0] / plain)
            torch.set_num_threads(now)
    finally:
        torch.set_num_threads(now)
    if shares:
        found.threads = threads, statistics.median(shares)
